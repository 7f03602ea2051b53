#include "f16.h"

namespace quantmill {

template <>
void encode_f16<Isa::scalar>(const float* values, const float*, BlockF16* blocks, size_t n_blocks) {
    for (size_t b = 0; b < n_blocks; ++b) blocks[b].value = to_half(values[b]);
}

template <>
void decode_f16<Isa::scalar>(const BlockF16* blocks, float* values, size_t n_blocks) {
    for (size_t b = 0; b < n_blocks; ++b) values[b] = to_float(blocks[b].value);
}

}  // namespace quantmill
