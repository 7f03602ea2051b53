// The row-wise int8 of LLM.int8(): a row shares one float32 absmax, a value is code * absmax / 127. 8 bits per weight
// and 32 per row.
#pragma once

#include <cstddef>
#include <cstdint>

#include "formats/source.h"
#include "isa.h"

namespace quantmill {

struct Int8Row {
    // The absmax; infinity or NaN, and no codes, if a value is not finite. Codes are value * (127 / absmax) in float32,
    // rounded half to even. Where that factor overflows (absmax below 3.8e-37) all codes are 0.
    float (*encode)(Source source, const void* values, size_t cols, int8_t* codes);
    // code * absmax * (1 / 127), each product rounded.
    void (*decode)(const int8_t* codes, float absmax, size_t cols, float* values);
};

template <Isa> const Int8Row& int8_row();

}  // namespace quantmill
