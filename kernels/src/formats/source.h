// Sources of weights as they stand in a checkpoint.
#pragma once

#include <cstddef>

#include "isa.h"

namespace quantmill {

enum class Source { float32, float16, bfloat16 };

constexpr size_t size_of(Source source) { return source == Source::float32 ? 4 : 2; }

// How one instruction set reads them.
struct SourceReader {
    // `n` values at any address, as float32.
    void (*widen)(Source source, const void* values, size_t n, float* widened);
    // Index of the first value that is not finite or whose magnitude is above `largest`; n if there is none.
    size_t (*first_unstorable)(const float* values, size_t n, float largest);
};

template <Isa> const SourceReader& source_reader();

}  // namespace quantmill
