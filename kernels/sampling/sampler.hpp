// One step of a batch: its masked rows on several threads, then the least confident masked again.

#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <mutex>
#include <vector>

#include "row.hpp"
#include "threads.hpp"

namespace vab {

constexpr int kRowsPerTask = 8;

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
    const int64_t first = clip * step_.positions;
    for (size_t i = begin; i < end; ++i) {
      const uint64_t position = static_cast<uint64_t>(rows_[i] - first);
      order_[i] = static_cast<uint64_t>(sampled_[i].confidence) << 32 | position;
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

}  // namespace vab
