// Runs the sampling step on cases from standard input, without Python: so that any compiler, any
// processor (qemu) and the sanitizers can be tried. Every number is in the byte order of the machine.
// Read of a case: Header, seeds, num_remask, tokens, conditional, unconditional. Written: whether all
// was finite, how often a second step on the same tokens asked for memory, the tokens.
#include <atomic>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <new>
#include <vector>

#include "sampler.hpp"

std::atomic<int32_t> num_allocations{0};

void* operator new(std::size_t size) {
  ++num_allocations;
  if (void* memory = std::malloc(size)) return memory;
  throw std::bad_alloc();
}

void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }

struct Header {
  int64_t clips, positions;
  int32_t size, top_k, has_unconditional, threads;
  uint32_t step;
  float guidance, inverse_temperature, mask_temperature;
};

template <typename T>
std::vector<T> read(int64_t count) {
  std::vector<T> values(static_cast<size_t>(count));
  if (std::fread(values.data(), sizeof(T), values.size(), stdin) != values.size()) std::abort();
  return values;
}

int main() {
  Header h;
  while (std::fread(&h, sizeof h, 1, stdin) == 1) {
    const int64_t rows = h.clips * h.positions;
    const auto seeds = read<uint64_t>(h.clips);
    const auto num_remask = read<int32_t>(h.clips);
    const auto tokens = read<int32_t>(rows);
    const auto conditional = read<float>(rows * h.size);
    const auto unconditional = read<float>(h.has_unconditional ? rows * h.size : 0);
    vab::Sampler sampler(h.threads);
    auto result = tokens;
    const vab::Step step{result.data(),
                         conditional.data(),
                         h.has_unconditional ? unconditional.data() : nullptr,
                         seeds.data(),
                         num_remask.data(),
                         h.clips,
                         h.positions,
                         h.size,
                         h.top_k,
                         h.step,
                         h.guidance,
                         h.inverse_temperature,
                         h.mask_temperature};
    sampler.run(step);
    result = tokens;
    const int32_t before = num_allocations;
    const int32_t finite = sampler.run(step);
    const int32_t written[] = {finite, num_allocations - before};
    std::fwrite(written, sizeof written, 1, stdout);
    std::fwrite(result.data(), sizeof(int32_t), result.size(), stdout);
  }
}
