// Runs the sampling step on cases from standard input and writes the tokens, without Python: so
// that any compiler, any processor (qemu) and the sanitizers can be tried. Format of a case, in the
// byte order of the machine: Header, seeds, num_remask, tokens, conditional, unconditional.
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <vector>

#include "sampler.hpp"

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
    auto tokens = read<int32_t>(rows);
    const auto conditional = read<float>(rows * h.size);
    const auto unconditional = read<float>(h.has_unconditional ? rows * h.size : 0);
    vab::Sampler sampler(h.threads);
    const vab::Step step{tokens.data(),
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
    const int32_t finite = sampler.run(step);
    std::fwrite(&finite, sizeof finite, 1, stdout);
    std::fwrite(tokens.data(), sizeof(int32_t), tokens.size(), stdout);
  }
}
