#include "differences.h"

#include "dispatch.h"

namespace quantmill {

Differences compare(const float* values, Source source, const void* sources, size_t n, const DifferenceBound& bound) {
    const DifferenceKernels& kernels =
        on(isa_in_use(), []<Isa isa>() -> const DifferenceKernels& { return difference_kernels<isa>(); });
    return kernels.span(values, source, sources, n, bound);
}

}  // namespace quantmill
