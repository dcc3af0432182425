// Keys, logarithm, exponential and noise of one number.
//
// Everything is built with -ffp-contract=off: each float operation rounds on its own.

#pragma once

#include <cstdint>
#include <cstring>

#include "dispatch.hpp"

namespace vab {

constexpr int32_t kLargestFiniteKey = 0x7f7fffff;

VAB_INLINE int32_t bits_of(float x) {
  int32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  return bits;
}

VAB_INLINE float float_of(int32_t bits) {
  float x;
  std::memcpy(&x, &bits, sizeof x);
  return x;
}

// Keys are integers in the order of the floats, -0.0 and +0.0 being one. Those of NaN and inf lie
// outside [~kLargestFiniteKey, kLargestFiniteKey].
VAB_INLINE int32_t swap_order(int32_t bits) { return bits ^ ((bits >> 31) & 0x7fffffff); }
VAB_INLINE int32_t key_of(float x) { return swap_order(bits_of(x + 0.0f)); }
VAB_INLINE float value_of(int32_t key) { return float_of(swap_order(key)); }

// Cephes logf, positive normal numbers only; philox.py:log_poly.
VAB_INLINE float log_poly(float x) {
  const int32_t bits = bits_of(x);
  const float mantissa = float_of((bits & 0x7fffff) | 0x3f000000);
  const int32_t small = mantissa < 0.707106781186547524f ? 1 : 0;
  const float e = static_cast<float>((bits >> 23) - 126 - small);
  const float f = (small ? mantissa + mantissa : mantissa) - 1.0f;
  const float z = f * f;
  float y = 7.0376836292e-2f;
  y = y * f + -1.1514610310e-1f;
  y = y * f + 1.1676998740e-1f;
  y = y * f + -1.2420140846e-1f;
  y = y * f + 1.4249322787e-1f;
  y = y * f + -1.6668057665e-1f;
  y = y * f + 2.0000714765e-1f;
  y = y * f + -2.4999993993e-1f;
  y = y * f + 3.3333331174e-1f;
  y = f * z * y + e * -2.12194440e-4f + z * -0.5f;
  return (f + y) + e * 0.693359375f;
}

// Cephes expf for x <= 0; sampling.py:exp_poly.
VAB_INLINE float exp_poly(float x) {
  x = x > -80.0f ? x : -80.0f;
  const int32_t n = static_cast<int32_t>(x * 1.44269504088896341f - 0.5f);
  const float f = static_cast<float>(n);
  x = x - f * 0.693359375f - f * -2.12194440e-4f;
  float y = 1.9875691500e-4f;
  y = y * x + 1.3981999507e-3f;
  y = y * x + 8.3334519073e-3f;
  y = y * x + 4.1665795894e-2f;
  y = y * x + 1.6666665459e-1f;
  y = y * x + 5.0000001201e-1f;
  y = y * (x * x) + x + 1.0f;
  return y * float_of((n + 127) << 23);
}

constexpr uint32_t kMultiplier0 = 0xD2511F53u, kMultiplier1 = 0xCD9E8D57u;
constexpr uint32_t kKeyStep0 = 0x9E3779B9u, kKeyStep1 = 0xBB67AE85u;

struct Noise {
  uint32_t key[2], step, stream;
};

// The first of the four words of Philox4x32-10 at counter (c0, step, stream, 0).
VAB_INLINE uint32_t philox_word(uint32_t c0, Noise at) {
  uint32_t x0 = c0, x1 = at.step, x2 = at.stream, x3 = 0, k0 = at.key[0], k1 = at.key[1];
  for (int round = 0; round < 10; ++round, k0 += kKeyStep0, k1 += kKeyStep1) {
    const uint64_t p0 = static_cast<uint64_t>(x0) * kMultiplier0;
    const uint64_t p1 = static_cast<uint64_t>(x2) * kMultiplier1;
    x0 = static_cast<uint32_t>(p1 >> 32) ^ x1 ^ k0;
    x1 = static_cast<uint32_t>(p1);
    x2 = static_cast<uint32_t>(p0 >> 32) ^ x3 ^ k1;
    x3 = static_cast<uint32_t>(p0);
  }
  return x0;
}

// Standard Gumbel noise made of one word; philox.py:gumbel.
VAB_INLINE float gumbel_of(uint32_t word) {
  const float u = (static_cast<float>(static_cast<int32_t>(word >> 9)) + 0.5f) * 0x1p-23f;
  return -log_poly(-log_poly(u));
}

}  // namespace vab
