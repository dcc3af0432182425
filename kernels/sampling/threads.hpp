#pragma once

#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <thread>
#include <vector>

namespace vab {

// Runs one function on several threads that wait between calls.
class Threads {
 public:
  explicit Threads(int count) {
    for (int i = 1; i < count; ++i) workers_.emplace_back([this, i] { serve(i); });
  }

  ~Threads() {
    {
      std::lock_guard<std::mutex> lock(mutex_);
      stop_ = true;
    }
    start_.notify_all();
    for (auto& worker : workers_) worker.join();
  }

  int count() const { return static_cast<int>(workers_.size()) + 1; }

  // Calls work(context, thread) once on every thread and returns when all are done.
  void run(void (*work)(void*, int), void* context) {
    {
      std::lock_guard<std::mutex> lock(mutex_);
      work_ = work;
      context_ = context;
      running_ = static_cast<int>(workers_.size());
      ++generation_;
    }
    start_.notify_all();
    work(context, 0);
    std::unique_lock<std::mutex> lock(mutex_);
    done_.wait(lock, [this] { return running_ == 0; });
  }

 private:
  void serve(int thread) {
    uint64_t seen = 0;
    std::unique_lock<std::mutex> lock(mutex_);
    while (true) {
      start_.wait(lock, [&] { return stop_ || generation_ != seen; });
      if (stop_) return;
      seen = generation_;
      lock.unlock();
      work_(context_, thread);
      lock.lock();
      if (--running_ == 0) done_.notify_one();
    }
  }

  std::vector<std::thread> workers_;
  std::mutex mutex_;
  std::condition_variable start_, done_;
  void (*work_)(void*, int) = nullptr;
  void* context_ = nullptr;
  int running_ = 0;
  uint64_t generation_ = 0;
  bool stop_ = false;
};

}  // namespace vab
