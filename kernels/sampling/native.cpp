// The Python module around the sampling step. Equals vab_rt/sampling.py token for token; README.md
// here derives it.

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>

#include <cstdint>
#include <optional>

#include "sampler.hpp"

namespace nb = nanobind;
using namespace nb::literals;
using vab::Sampler;

namespace {

template <typename T, int Rank>
using Array = nb::ndarray<T, nb::ndim<Rank>, nb::c_contig, nb::device::cpu>;

bool sample_step(Sampler& sampler, Array<int32_t, 2> tokens, Array<const float, 3> conditional,
                 std::optional<Array<const float, 3>> unconditional,
                 Array<const uint64_t, 1> seeds, uint32_t step, float guidance,
                 float inverse_temperature, int top_k, float mask_temperature,
                 Array<const int32_t, 1> num_remask) {
  vab::Step arguments{tokens.data(),
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
  nb::set_leak_warnings(false);  // Blender ends Python without freeing modules, which is no leak
  nb::class_<Sampler>(m, "Sampler", "Threads and scratch memory that stay between steps.")
      .def(nb::init<int>(), "threads"_a)
      .def_prop_ro("num_threads", &Sampler::num_threads)
      .def("sample_step", &sample_step, "tokens"_a.noconvert(), "conditional"_a.noconvert(),
           "unconditional"_a.noconvert().none(), "seeds"_a.noconvert(), "step"_a, "guidance"_a,
           "inverse_temperature"_a, "top_k"_a, "mask_temperature"_a, "num_remask"_a.noconvert(),
           "Arguments are checked by the caller (vab_rt.sampling_arguments). False when a masked "
           "row holds a NaN or infinite logit; then nothing has changed.");
}
