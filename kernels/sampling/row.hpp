// One masked row: what can matter of its logits, the token drawn, the confidence in it.

#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "loops.hpp"

namespace vab {

constexpr uint32_t kTokenStream = 0, kConfidenceStream = 1;

// Asks for the next row's logits a few cache lines at a time, between the stages of this one: more
// at once would wait for memory.
struct Prefetch {
  const float *conditional = nullptr, *unconditional = nullptr;  // [V] or null
  int done = 0, size = 0;

  void some() {
    const int end = std::min(size, done + 256);
    for (; done < end; done += 16) {
      VAB_PREFETCH(conditional + done);
      if (unconditional != nullptr) VAB_PREFETCH(unconditional + done);
    }
  }
};

// What one thread needs for one row of V logits; grown once, reused for every step.
struct Scratch {
  std::vector<int32_t> keys, kept, other_kept, score;
  std::vector<uint32_t> index, other_index, counter, words;
  std::vector<float> value;
  Prefetch next;

  void reserve(int size) {
    const size_t padded = (static_cast<size_t>(size) + 15) / 16 * 16;
    if (keys.size() >= padded) return;
    for (auto* v : {&keys, &kept, &other_kept, &score}) v->resize(padded);
    for (auto* v : {&index, &other_index, &counter, &words}) v->resize(padded);
    value.resize(padded);
  }

  // Keeps the keys of the row that reach the threshold.
  int keep(int size, int32_t threshold) {
    return collect(keys.data(), nullptr, size, threshold, kept.data(), index.data());
  }

  // Of the n kept, keeps those that reach the threshold.
  int keep_of_kept(int n, int32_t threshold) {
    n = collect(kept.data(), index.data(), n, threshold, other_kept.data(), other_index.data());
    kept.swap(other_kept);
    index.swap(other_index);
    return n;
  }
};

// `count` keys, at least k, reach the threshold; `above`, fewer than k, reach the limit. A limit
// that is the largest key starts with above = 0 whatever its ties.
struct Cut {
  int32_t threshold, count, limit, above;
};

// Moves the two together, in turn by the counts and by half, until at most `spare` keys too many
// reach the threshold, or only ties with the k-th largest do.
inline Cut narrow(const int32_t* keys, int size, int k, int spare, Cut cut) {
  const auto between = [&](int32_t key) { return key > cut.threshold && key < cut.limit; };
  for (bool halve = false; cut.count > k + spare; halve = !halve) {
    const float low = value_of(cut.threshold), high = value_of(cut.limit);
    const float too_many = static_cast<float>(cut.count - k - spare / 2);
    const float share = too_many / static_cast<float>(cut.count - cut.above);
    int32_t threshold = key_of(low + share * (high - low));
    if (halve || !between(threshold)) threshold = key_of(0.5f * low + 0.5f * high);
    const bool adjacent = !between(threshold);
    if (adjacent) threshold = cut.limit;
    const int count = count_at_least(keys, size, threshold);
    if (count >= k) cut.threshold = threshold, cut.count = count;
    else cut.limit = threshold, cut.above = count;
    if (adjacent) break;
  }
  return cut;
}

// Below this key a logit can neither win nor weigh: the noise spans less than 19.5, and
// exp(-19.5) in units of 2^-24 is 0. The second term covers the rounding of large logits.
inline int32_t negligible(int32_t high) {
  const float top = value_of(high);
  return key_of(top - (20.0f + std::abs(top) * 0x1p-20f));
}

// A row cut roughly: at least k keys kept, seldom many more. An eighth of the row says where.
inline Cut keep_roughly(Scratch& s, int size, int k, Range range) {
  const int part = size / 8, expected = k / 8;
  const int safe = std::min(part, expected + 2 * static_cast<int>(std::sqrt(expected)) + 1);
  Cut cut = narrow(s.keys.data(), part, safe, expected / 8, {range.low, part, range.high, 0});
  cut = {cut.threshold, s.keep(size, cut.threshold), range.high, 0};
  if (cut.count >= k) return cut;
  cut = narrow(s.keys.data(), size, k, k / 4 + 16, {range.low, size, cut.threshold, cut.count});
  cut.count = s.keep(size, cut.threshold);  // range.low may be above the smallest key
  return cut;
}

// Keeps the keys that matter among those at or above the k-th largest, ties kept; returns how many.
inline int keep_top_k(Scratch& s, int size, int k, Range range) {
  const bool all = k <= 0 || k >= size;
  const int32_t cutoff = negligible(range.high);
  if (all || cutoff > range.low) {
    range.low = std::max(range.low, cutoff);
    const int n = s.keep(size, range.low);
    if (all || n <= k) return n;
  }
  Cut cut = keep_roughly(s, size, k, range);
  const int n = cut.count;
  s.next.some();
  cut = narrow(s.kept.data(), n, k, 0, cut);
  s.next.some();
  return cut.count == n ? n : s.keep_of_kept(n, cut.threshold);
}

struct Step {
  int32_t* tokens;             // [B, N], changed in place
  const float* conditional;    // [B, N, V]
  const float* unconditional;  // [B, N, V] or null
  const uint64_t* seeds;       // [B]
  const int32_t* num_remask;   // [B]
  int64_t clips, positions;    // B, N
  int size, top_k;             // V, k
  uint32_t step;
  float guidance, inverse_temperature, mask_temperature;
};

struct Sampled {
  int32_t token;
  uint32_t confidence;  // in the order of the floats
};

inline Noise noise_at(const Step& a, int64_t clip, uint32_t stream) {
  const uint64_t seed = a.seeds[clip];
  return {{static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32)}, a.step, stream};
}

// The place of the winner among n values. The noise is only computed where its bound lets it win.
inline int draw(Scratch& s, int n, Noise at) {
  philox_words(s.counter.data(), n, at, s.words.data());
  s.next.some();
  const int32_t reached = bound_scores(s.value.data(), s.words.data(), n, s.score.data());
  const int m =
      collect(s.score.data(), nullptr, n, reached, s.other_kept.data(), s.other_index.data());
  int winner = 0;
  int32_t best = INT32_MIN;
  for (int i = 0; i < m; ++i) {
    const int place = static_cast<int>(s.other_index[i]);
    const int32_t score = key_of(s.value[place] + gumbel_of(s.words[place]));
    if (score > best) best = score, winner = place;
  }
  return winner;
}

// Draws one row; false when a logit is NaN or infinite. s.next is the row after it.
inline bool sample_row(const Step& a, Scratch& s, int64_t row, Sampled* out) {
  const int64_t clip = row / a.positions, position = row % a.positions;
  const float* u = a.unconditional ? a.unconditional + row * a.size : nullptr;
  const Range range = scale_row(a.conditional + row * a.size, u, a.size, a.guidance,
                                a.inverse_temperature, s.keys.data());
  if (range.high > kLargestFiniteKey || range.low < ~kLargestFiniteKey) return false;
  s.next.some();
  const int n = keep_top_k(s, a.size, a.top_k, range);
  prepare_candidates(static_cast<uint32_t>(position * a.size), s.index.data(), s.kept.data(), n,
                     s.counter.data(), s.value.data());
  s.next.some();
  const int winner = draw(s, n, noise_at(a, clip, kTokenStream));
  s.next.some();
  const float top = value_of(range.high);
  const float total = static_cast<float>(sum_weights(s.value.data(), n, top)) * 0x1p-24f;
  s.next.some();
  const float log_p = (s.value[winner] - top) - log_poly(total);
  const Noise noise = noise_at(a, clip, kConfidenceStream);
  const uint32_t word = philox_word(static_cast<uint32_t>(position), noise);
  const int32_t confidence = key_of(log_p + a.mask_temperature * gumbel_of(word));
  *out = {static_cast<int32_t>(s.index[winner]), static_cast<uint32_t>(confidence) ^ 0x80000000u};
  return true;
}

}  // namespace vab
