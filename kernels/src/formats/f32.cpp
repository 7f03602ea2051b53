#include "f32.h"

#include <cstring>

namespace quantmill {

template <>
void encode_f32<Isa::scalar>(const float* values, const float*, BlockF32* blocks, size_t n_blocks) {
    if (n_blocks > 0) std::memcpy(blocks, values, n_blocks * sizeof(BlockF32));
}

template <>
void decode_f32<Isa::scalar>(const BlockF32* blocks, float* values, size_t n_blocks) {
    if (n_blocks > 0) std::memcpy(values, blocks, n_blocks * sizeof(BlockF32));
}

}  // namespace quantmill
