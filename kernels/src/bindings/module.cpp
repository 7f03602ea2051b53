// The Python skin: each family's bindings check what came in, release the GIL, call. Nothing is computed here.
#include "bindings/families.h"
#include "isa.h"

namespace nb = nanobind;

namespace quantmill {
namespace {

NB_MODULE(_native, m) {
    nb::set_leak_warnings(false);  // whatever still holds a Format when Python ends is not ours to complain about
    isa_in_use();  // a wrong QUANTMILL_ISA stops the import, not the first tensor

    m.def("isa", [] { return name(isa_in_use()); },
          "The instruction set that runs: scalar, avx2, avx512 or neon. QUANTMILL_ISA forces one; read at import.");
    add_codecs(m);
    add_gptq(m);
    add_words(m);
    add_bitsandbytes(m);
    add_small_floats(m);
    add_int8_affine(m);
    add_hqq(m);
    add_differences(m);
}

}  // namespace
}  // namespace quantmill
