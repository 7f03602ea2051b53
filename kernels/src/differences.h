// Values beside those that they stand for, on the instruction set in use.
#pragma once

#include "differences/span.h"

namespace quantmill {

// One pass over `n` values and what they stand for, on the calling thread.
Differences compare(const float* values, Source source, const void* sources, size_t n, const DifferenceBound& bound);

}  // namespace quantmill
