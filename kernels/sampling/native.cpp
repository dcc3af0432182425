// One decoding step between two backbone calls: guidance, temperature, top-k, sampling,
// confidence, re-masking. Equals vab_rt/sampling.py token for token; README.md here derives it.

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <mutex>
#include <optional>
#include <vector>

#include "loops.hpp"
#include "threads.hpp"

namespace nb = nanobind;
using namespace nb::literals;
using namespace vab;

namespace {

constexpr uint32_t kTokenStream = 0, kConfidenceStream = 1;
constexpr int kRowsPerTask = 8;

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
  std::vector<int32_t> keys, kept, score;
  std::vector<uint32_t> index, places, counter, words;
  std::vector<float> value, noise;
  Prefetch next;

  void reserve(int size) {
    const size_t padded = (static_cast<size_t>(size) + 15) / 16 * 16;
    if (keys.size() >= padded) return;
    for (auto* v : {&keys, &kept, &score}) v->resize(padded);
    for (auto* v : {&index, &places, &counter, &words}) v->resize(padded);
    for (auto* v : {&value, &noise}) v->resize(padded);
  }
};

// At least k keys reach the threshold: `count` do. Fewer than k reach the limit.
struct Cut {
  int32_t threshold;
  int count;
  int64_t limit;
};

// Halves the distance between values until at most `spare` keys too many reach the threshold.
Cut approach(const int32_t* keys, int size, int k, int spare, Range range) {
  Cut cut{range.low, size, static_cast<int64_t>(range.high) + 1};
  while (cut.count > k + spare) {
    const float middle = 0.5f * float_of(ordered(cut.threshold)) + 0.5f * float_of(ordered(range.high));
    const int32_t threshold = ordered(bits_of(middle + 0.0f));
    if (threshold <= cut.threshold || threshold >= range.high) break;
    const int count = count_at_least(keys, size, threshold);
    if (count < k) cut.limit = range.high = threshold;
    else cut.threshold = threshold, cut.count = count;
  }
  return cut;
}

// Halves the keys between until exactly k reach the threshold, or only ties with the k-th are left.
Cut settle(const int32_t* keys, int size, int k, Cut cut) {
  while (cut.count > k && cut.limit - cut.threshold > 1) {
    const int32_t threshold = static_cast<int32_t>((cut.threshold + cut.limit) >> 1);
    const int count = count_at_least(keys, size, threshold);
    if (count < k) cut.limit = threshold;
    else cut.threshold = threshold, cut.count = count;
  }
  return cut;
}

// Below this key a logit can neither win nor weigh: the noise spans less than 19.5, and
// exp(-19.5) in units of 2^-24 is 0. The second term covers the rounding of large logits.
int32_t negligible(int32_t high) {
  const float top = float_of(ordered(high));
  return ordered(bits_of(top - (20.0f + std::abs(top) * 0x1p-20f) + 0.0f));
}

// A row cut roughly: at least k keys collected, seldom many more. An eighth of the row says where.
Cut collect_roughly(Scratch& s, int size, int k, Range range) {
  const int expected = k / 8, part = size / 8;
  const Cut guess =
      approach(s.keys.data(), part, std::min(part, expected + 2 * static_cast<int>(std::sqrt(expected)) + 1), expected / 8, range);
  const int n = collect(s.keys.data(), size, guess.threshold, s.index.data());
  if (n >= k) return {guess.threshold, n, static_cast<int64_t>(range.high) + 1};
  range.high = guess.threshold;
  Cut cut = approach(s.keys.data(), size, k, k / 4 + 16, range);
  cut.count = collect(s.keys.data(), size, cut.threshold, s.index.data());
  return cut;
}

// index, kept: the keys that matter among those at or above the k-th largest, ties kept; returns
// how many.
int keep_top_k(Scratch& s, int size, int k, Range range) {
  const int32_t cutoff = negligible(range.high);
  Cut cut{range.low, size, 0};
  if (k <= 0 || k >= size || cutoff > range.low) {
    range.low = std::max(range.low, cutoff);
    cut = {range.low, collect(s.keys.data(), size, range.low, s.index.data()), 0};
  }
  const bool settled = k <= 0 || cut.count <= k || k >= size;
  if (!settled) cut = collect_roughly(s, size, k, range);
  const int n = cut.count;
  s.next.some();
  gather(s.keys.data(), s.index.data(), n, s.kept.data());
  if (settled || n == k) return n;
  s.next.some();
  cut = settle(s.kept.data(), n, k, cut);
  s.next.some();
  if (cut.count == n) return n;
  const int m = collect(s.kept.data(), n, cut.threshold, s.places.data());
  gather(s.index.data(), s.places.data(), m, s.counter.data());
  gather(s.kept.data(), s.places.data(), m, s.score.data());
  s.index.swap(s.counter);
  s.kept.swap(s.score);
  return m;
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
  float log_p;
};

Noise noise_at(const Step& a, int64_t clip, uint32_t stream) {
  const uint64_t seed = a.seeds[clip];
  return {{static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32)}, a.step, stream};
}

// Draws one row; false when a logit is NaN or infinite. s.next is the row after it.
bool sample_row(const Step& a, Scratch& s, int64_t row, Sampled* out) {
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
  philox_words(s.counter.data(), n, noise_at(a, clip, kTokenStream), s.words.data());
  s.next.some();
  gumbel_of(s.words.data(), n, s.noise.data());
  s.next.some();
  const int32_t best = add_noise(s.value.data(), s.noise.data(), n, s.score.data());
  const auto winner = std::find(s.score.data(), s.score.data() + n, best) - s.score.data();
  s.next.some();
  const float top = float_of(ordered(range.high));
  const float total = static_cast<float>(sum_weights(s.value.data(), n, top)) * 0x1p-24f;
  out->token = static_cast<int32_t>(s.index[winner]);
  out->log_p = (s.value[winner] - top) - log_poly(total);
  return true;
}

class Sampler {
 public:
  explicit Sampler(int threads) : threads_(threads), scratch_(threads) {}

  // False when a masked row holds a logit that is NaN or infinite; then nothing has changed.
  bool run(const Step& step) {
    std::lock_guard<std::mutex> lock(busy_);
    step_ = step;
    rows_.clear();
    for (int64_t row = 0; row < step.clips * step.positions; ++row) {
      if (step.tokens[row] == step.size) rows_.push_back(row);
    }
    const size_t count = rows_.size();
    if (sampled_.size() < count) sampled_.resize(count);
    if (order_.size() < count) order_.resize(count);
    next_ = 0;
    finite_ = true;
    threads_.run([](void* self, int i) { static_cast<Sampler*>(self)->sample_rows(i); }, this);
    if (finite_) write_tokens();
    return finite_;
  }

  int num_threads() const { return threads_.count(); }

 private:
  void sample_rows(int thread) {
    Scratch& scratch = scratch_[thread];
    scratch.reserve(step_.size);
    const int64_t count = static_cast<int64_t>(rows_.size());
    while (finite_) {
      const int64_t begin = next_.fetch_add(kRowsPerTask);
      if (begin >= count) return;
      for (int64_t i = begin; i < std::min(count, begin + kRowsPerTask); ++i) {
        scratch.next = i + 1 < count ? after(rows_[i + 1]) : Prefetch{};
        if (!sample_row(step_, scratch, rows_[i], &sampled_[i])) finite_ = false;
      }
    }
  }

  Prefetch after(int64_t row) const {
    const int64_t at = row * step_.size;
    const float* u = step_.unconditional ? step_.unconditional + at : nullptr;
    return {step_.conditional + at, u, 0, step_.size};
  }

  void write_tokens() {
    for (size_t begin = 0, end = 0; begin < rows_.size(); begin = end) {
      const int64_t clip = rows_[begin] / step_.positions;
      while (end < rows_.size() && rows_[end] / step_.positions == clip) ++end;
      mask_least_confident(clip, begin, end);
    }
  }

  // Rows begin to end are one clip's. An order of (confidence, position) has no ties.
  void mask_least_confident(int64_t clip, size_t begin, size_t end) {
    const Noise at = noise_at(step_, clip, kConfidenceStream);
    const int64_t first = clip * step_.positions;
    for (size_t i = begin; i < end; ++i) {
      const uint32_t position = static_cast<uint32_t>(rows_[i] - first);
      uint32_t counter[16] = {position}, words[16];  // philox_words works in blocks of 16
      float noise;
      philox_words(counter, 1, at, words);
      gumbel_of(words, 1, &noise);
      const float confidence = sampled_[i].log_p + step_.mask_temperature * noise;
      const uint32_t key = static_cast<uint32_t>(ordered(bits_of(confidence + 0.0f))) ^ 0x80000000u;
      order_[i] = static_cast<uint64_t>(key) << 32 | position;
      step_.tokens[rows_[i]] = sampled_[i].token;
    }
    const auto from = order_.begin() + begin, to = order_.begin() + end;
    const auto kept = from + step_.num_remask[clip];
    if (kept != to) std::nth_element(from, kept, to);
    for (auto it = from; it != kept; ++it) {
      step_.tokens[first + static_cast<uint32_t>(*it)] = step_.size;
    }
  }

  std::mutex busy_;
  Step step_{};
  Threads threads_;
  std::vector<Scratch> scratch_;
  std::vector<int64_t> rows_;     // masked rows of all clips, as clip * N + position
  std::vector<Sampled> sampled_;  // beside rows_
  std::vector<uint64_t> order_;   // beside rows_
  std::atomic<int64_t> next_{0};
  std::atomic<bool> finite_{true};
};

template <typename T, int Rank>
using Array = nb::ndarray<T, nb::ndim<Rank>, nb::c_contig, nb::device::cpu>;

bool sample_step(Sampler& sampler, Array<int32_t, 2> tokens, Array<const float, 3> conditional,
                 std::optional<Array<const float, 3>> unconditional,
                 Array<const uint64_t, 1> seeds, uint32_t step, float guidance,
                 float inverse_temperature, int top_k, float mask_temperature,
                 Array<const int32_t, 1> num_remask) {
  Step arguments{tokens.data(),
                 conditional.data(),
                 unconditional ? unconditional->data() : nullptr,
                 seeds.data(),
                 num_remask.data(),
                 static_cast<int64_t>(tokens.shape(0)),
                 static_cast<int64_t>(tokens.shape(1)),
                 static_cast<int>(conditional.shape(2)),
                 top_k,
                 step,
                 guidance,
                 inverse_temperature,
                 mask_temperature};
  nb::gil_scoped_release release;
  return sampler.run(arguments);
}

}  // namespace

NB_MODULE(_sampling, m) {
  nb::class_<Sampler>(m, "Sampler", "Threads and scratch memory that stay between steps.")
      .def(nb::init<int>(), "threads"_a)
      .def_prop_ro("num_threads", &Sampler::num_threads)
      .def("sample_step", &sample_step, "tokens"_a.noconvert(), "conditional"_a.noconvert(),
           "unconditional"_a.noconvert().none(), "seeds"_a.noconvert(), "step"_a, "guidance"_a,
           "inverse_temperature"_a, "top_k"_a, "mask_temperature"_a, "num_remask"_a.noconvert(),
           "Arguments are checked by the caller (vab_rt.sampling_arguments). False when a masked "
           "row holds a NaN or infinite logit; then nothing has changed.");
}
