// The inner loops of the sampling kernel, each on one row of logits.

#pragma once

#include <algorithm>
#include <cstdint>

#include "dispatch.hpp"
#include "numbers.hpp"

namespace vab {

// words[i] = philox_word(c0[i], at)
VAB_DEFAULT void philox_words(const uint32_t* VAB_RESTRICT c0, int n, Noise at,
                              uint32_t* VAB_RESTRICT words) {
  for (int i = 0; i < n; ++i) words[i] = philox_word(c0[i], at);
}

#if VAB_X86_VERSIONS
// One counter per 64-bit lane: a 32 x 32 -> 64 bit product needs no shuffles, and whatever lies
// in the upper halves is ignored by the next one.
VAB_TARGET_V3 void philox_words(const uint32_t* VAB_RESTRICT c0, int n, Noise at,
                                uint32_t* VAB_RESTRICT words) {
  const __m256i m0 = _mm256_set1_epi64x(kMultiplier0), m1 = _mm256_set1_epi64x(kMultiplier1);
  const __m256i low_halves = _mm256_setr_epi32(0, 2, 4, 6, 0, 2, 4, 6);
  for (int i = 0; i < n; i += 8) {  // rows are padded to 16
    __m256i x0[2], x1[2], x2[2], x3[2];
    for (int h = 0; h < 2; ++h) {
      x0[h] = _mm256_cvtepu32_epi64(
          _mm_loadu_si128(reinterpret_cast<const __m128i*>(c0 + i + 4 * h)));
      x1[h] = _mm256_set1_epi64x(at.step);
      x2[h] = _mm256_set1_epi64x(at.stream);
      x3[h] = _mm256_setzero_si256();
    }
    uint32_t k0 = at.key[0], k1 = at.key[1];
    for (int round = 0; round < 10; ++round, k0 += kKeyStep0, k1 += kKeyStep1) {
      for (int h = 0; h < 2; ++h) {
        const __m256i p0 = _mm256_mul_epu32(x0[h], m0), p1 = _mm256_mul_epu32(x2[h], m1);
        x0[h] = _mm256_xor_si256(_mm256_xor_si256(_mm256_srli_epi64(p1, 32), x1[h]),
                                 _mm256_set1_epi64x(k0));
        x2[h] = _mm256_xor_si256(_mm256_xor_si256(_mm256_srli_epi64(p0, 32), x3[h]),
                                 _mm256_set1_epi64x(k1));
        x1[h] = p1;
        x3[h] = p0;
      }
    }
    const __m256i first = _mm256_permutevar8x32_epi32(x0[0], low_halves);
    const __m256i second = _mm256_permutevar8x32_epi32(x0[1], low_halves);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(words + i),
                        _mm256_blend_epi32(first, second, 0xf0));
  }
}

VAB_TARGET_V4 void philox_words(const uint32_t* VAB_RESTRICT c0, int n, Noise at,
                                uint32_t* VAB_RESTRICT words) {
  const __m512i m0 = _mm512_set1_epi64(kMultiplier0), m1 = _mm512_set1_epi64(kMultiplier1);
  for (int i = 0; i < n; i += 16) {  // rows are padded to 16
    __m512i x0[2], x1[2], x2[2], x3[2];
    for (int h = 0; h < 2; ++h) {
      x0[h] = _mm512_cvtepu32_epi64(
          _mm256_loadu_si256(reinterpret_cast<const __m256i*>(c0 + i + 8 * h)));
      x1[h] = _mm512_set1_epi64(at.step);
      x2[h] = _mm512_set1_epi64(at.stream);
      x3[h] = _mm512_setzero_si512();
    }
    uint32_t k0 = at.key[0], k1 = at.key[1];
    for (int round = 0; round < 10; ++round, k0 += kKeyStep0, k1 += kKeyStep1) {
      for (int h = 0; h < 2; ++h) {
        const __m512i p0 = _mm512_mul_epu32(x0[h], m0), p1 = _mm512_mul_epu32(x2[h], m1);
        x0[h] = _mm512_ternarylogic_epi64(_mm512_srli_epi64(p1, 32), x1[h],
                                          _mm512_set1_epi64(k0), 0x96);  // three-way xor
        x2[h] = _mm512_ternarylogic_epi64(_mm512_srli_epi64(p0, 32), x3[h],
                                          _mm512_set1_epi64(k1), 0x96);
        x1[h] = p1;
        x3[h] = p0;
      }
    }
    for (int h = 0; h < 2; ++h) {
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(words + i + 8 * h),
                          _mm512_cvtepi64_epi32(x0[h]));
    }
  }
}
#endif

struct Range {
  int32_t low, high;  // ordered keys
};

// keys[V] of the guided, scaled logits, and their range. u is null without guidance.
VAB_CLONES Range scale_row(const float* VAB_RESTRICT c, const float* VAB_RESTRICT u, int size,
                           float guidance, float inverse_temperature, int32_t* VAB_RESTRICT keys) {
  int32_t low = INT32_MAX, high = INT32_MIN;
  if (u != nullptr) {
    for (int v = 0; v < size; ++v) {
      const float guided = u[v] + guidance * (c[v] - u[v]);
      const int32_t key = key_of(guided * inverse_temperature);
      keys[v] = key;
      low = std::min(low, key);
      high = std::max(high, key);
    }
  } else {
    for (int v = 0; v < size; ++v) {
      const int32_t key = key_of(c[v] * inverse_temperature);
      keys[v] = key;
      low = std::min(low, key);
      high = std::max(high, key);
    }
  }
  return {low, high};
}

VAB_CLONES int count_at_least(const int32_t* VAB_RESTRICT keys, int size, int32_t threshold) {
  int count = 0;
  for (int v = 0; v < size; ++v) count += keys[v] >= threshold ? 1 : 0;
  return count;
}

// kept, index: the keys at or above the threshold and their places, in order; returns how many.
// places is null for 0, 1, 2 and so on. Both outputs have room for size.
VAB_DEFAULT int collect(const int32_t* VAB_RESTRICT keys, const uint32_t* VAB_RESTRICT places,
                        int size, int32_t threshold, int32_t* VAB_RESTRICT kept,
                        uint32_t* VAB_RESTRICT index) {
  int n = 0;
  for (int v = 0; v < size; ++v) {
    kept[n] = keys[v];
    index[n] = places != nullptr ? places[v] : static_cast<uint32_t>(v);
    n += keys[v] >= threshold ? 1 : 0;
  }
  return n;
}

#if VAB_X86_VERSIONS
struct SetBits {
  alignas(8) uint8_t of[256][8] = {};  // places of the set bits of a byte, in order

  constexpr SetBits() {
    for (int byte = 0; byte < 256; ++byte) {
      for (int bit = 0, n = 0; bit < 8; ++bit) {
        if (byte >> bit & 1) of[byte][n++] = static_cast<uint8_t>(bit);
      }
    }
  }
};
constexpr SetBits kSetBits;

VAB_TARGET_V3 int collect(const int32_t* VAB_RESTRICT keys, const uint32_t* VAB_RESTRICT places,
                          int size, int32_t threshold, int32_t* VAB_RESTRICT kept,
                          uint32_t* VAB_RESTRICT index) {
  const __m256i below = _mm256_set1_epi32(threshold - 1);
  __m256i place = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
  int n = 0, v = 0;
  for (; v + 8 <= size; v += 8) {
    const __m256i key = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(keys + v));
    const int mask = _mm256_movemask_ps(_mm256_castsi256_ps(_mm256_cmpgt_epi32(key, below)));
    const __m256i chosen = _mm256_cvtepu8_epi32(
        _mm_loadl_epi64(reinterpret_cast<const __m128i*>(kSetBits.of[mask])));
    if (places != nullptr) place = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(places + v));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(kept + n),
                        _mm256_permutevar8x32_epi32(key, chosen));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(index + n),
                        _mm256_permutevar8x32_epi32(place, chosen));
    place = _mm256_add_epi32(place, _mm256_set1_epi32(8));
    n += __builtin_popcount(mask);
  }
  for (; v < size; ++v) {
    if (keys[v] < threshold) continue;
    kept[n] = keys[v];
    index[n++] = places != nullptr ? places[v] : static_cast<uint32_t>(v);
  }
  return n;
}

VAB_TARGET_V4 int collect(const int32_t* VAB_RESTRICT keys, const uint32_t* VAB_RESTRICT places,
                          int size, int32_t threshold, int32_t* VAB_RESTRICT kept,
                          uint32_t* VAB_RESTRICT index) {
  const __m512i least = _mm512_set1_epi32(threshold);
  __m512i place = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
  int n = 0, v = 0;
  for (; v + 16 <= size; v += 16) {
    const __m512i key = _mm512_loadu_si512(keys + v);
    const __mmask16 mask = _mm512_cmpge_epi32_mask(key, least);
    if (places != nullptr) place = _mm512_loadu_si512(places + v);
    _mm512_storeu_si512(kept + n, _mm512_maskz_compress_epi32(mask, key));
    _mm512_storeu_si512(index + n, _mm512_maskz_compress_epi32(mask, place));
    place = _mm512_add_epi32(place, _mm512_set1_epi32(16));
    n += __builtin_popcount(mask);
  }
  for (; v < size; ++v) {
    if (keys[v] < threshold) continue;
    kept[n] = keys[v];
    index[n++] = places != nullptr ? places[v] : static_cast<uint32_t>(v);
  }
  return n;
}
#endif

// Sum of exp(value - top), in units of 2^-24: an integer, so order cannot matter.
VAB_CLONES int64_t sum_weights(const float* VAB_RESTRICT value, int n, float top) {
  int64_t sum = 0;
  for (int i = 0; i < n; ++i) {
    sum += static_cast<int32_t>(exp_poly(value[i] - top) * 0x1p24f);
  }
  return sum;
}

// score[i] = what value[i] can reach with noise made of words[i], as ordered keys, rounded up; and
// returns a score that the best surely reaches. README.md derives the bounds on the noise.
VAB_CLONES int32_t bound_scores(const float* VAB_RESTRICT value, const uint32_t* VAB_RESTRICT words,
                                int n, int32_t* VAB_RESTRICT score) {
  int32_t reached = INT32_MIN;
  for (int i = 0; i < n; ++i) {
    const int32_t w = static_cast<int32_t>(words[i] >> 9);
    const float rest = static_cast<float>(0xffffff - 2 * w);  // (1 - u) * 2^24
    const float above = 0.6931472f * (151.001f - static_cast<float>(bits_of(rest)) * 0x1p-23f);
    const float below = w >= 1 << 22 ? above - 0.4f : -2.82f;
    score[i] = key_of(value[i] + above);
    reached = std::max(reached, key_of(value[i] + below));
  }
  return reached;
}

VAB_CLONES void prepare_candidates(uint32_t base, const uint32_t* VAB_RESTRICT index,
                                   const int32_t* VAB_RESTRICT kept, int n,
                                   uint32_t* VAB_RESTRICT counter, float* VAB_RESTRICT value) {
  for (int i = 0; i < n; ++i) {
    counter[i] = base + index[i];
    value[i] = value_of(kept[i]);
  }
}

}  // namespace vab
