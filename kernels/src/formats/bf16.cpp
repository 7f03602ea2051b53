#include "bf16.h"

namespace quantmill {

template <>
void encode_bf16<Isa::scalar>(const float* values, const float*, BlockBF16* blocks, size_t n_blocks) {
    for (size_t b = 0; b < n_blocks; ++b) blocks[b].value = to_bfloat(values[b]);
}

template <>
void decode_bf16<Isa::scalar>(const BlockBF16* blocks, float* values, size_t n_blocks) {
    for (size_t b = 0; b < n_blocks; ++b) values[b] = to_float(blocks[b].value);
}

}  // namespace quantmill
