#include "codec.h"

#include <array>

#include "dispatch.h"
#include "formats/bf16.h"
#include "formats/f16.h"
#include "formats/f32.h"
#include "formats/iq4_nl.h"
#include "formats/iq4_xs.h"
#include "formats/mxfp4.h"
#include "formats/q2_K.h"
#include "formats/q3_K.h"
#include "formats/q4_0.h"
#include "formats/q4_1.h"
#include "formats/q4_K.h"
#include "formats/q5_0.h"
#include "formats/q5_1.h"
#include "formats/q5_K.h"
#include "formats/q6_K.h"
#include "formats/q8_0.h"
#include "formats/tq1_0.h"
#include "formats/tq2_0.h"

namespace quantmill {
namespace {

template <typename Block>
using Encode = void (*)(const RowsOfBlocks&, Block*);
template <typename Block>
using Decode = void (*)(const Block*, float*, size_t);
using SourceOf = const SourceReader& (*)();

template <typename Block>
size_t first_overflow(const void* blocks, size_t n_blocks) {
    const Block* const typed = static_cast<const Block*>(blocks);
    size_t b = 0;
    while (b < n_blocks && is_finite(typed[b])) ++b;
    return b;
}

template <typename Block, Encode<Block> encode, Decode<Block> decode>
constexpr Codec row(const char* name, SourceOf source) {
    return {
        name, Block::values, sizeof(Block), Block::largest,
        [](const RowsOfBlocks& rows, void* blocks) { encode(rows, static_cast<Block*>(blocks)); },
        [](const void* blocks, float* values, size_t n_blocks) {
            decode(static_cast<const Block*>(blocks), values, n_blocks);
        },
        first_overflow<Block>,
        source,
    };
}

template <Isa isa>
constexpr std::array table = {
    row<BlockF32, encode_f32<isa>, decode_f32<isa>>("F32", source_reader<isa>),
    row<BlockF16, encode_f16<isa>, decode_f16<isa>>("F16", source_reader<isa>),
    row<BlockBF16, encode_bf16<isa>, decode_bf16<isa>>("BF16", source_reader<isa>),
    row<BlockQ8_0, encode_q8_0<isa>, decode_q8_0<isa>>("Q8_0", source_reader<isa>),
    row<BlockQ4_0, encode_q4_0<isa>, decode_q4_0<isa>>("Q4_0", source_reader<isa>),
    row<BlockQ4_1, encode_q4_1<isa>, decode_q4_1<isa>>("Q4_1", source_reader<isa>),
    row<BlockQ5_0, encode_q5_0<isa>, decode_q5_0<isa>>("Q5_0", source_reader<isa>),
    row<BlockQ5_1, encode_q5_1<isa>, decode_q5_1<isa>>("Q5_1", source_reader<isa>),
    row<BlockQ2_K, encode_q2_K<isa>, decode_q2_K<isa>>("Q2_K", source_reader<isa>),
    row<BlockQ3_K, encode_q3_K<isa>, decode_q3_K<isa>>("Q3_K", source_reader<isa>),
    row<BlockQ4_K, encode_q4_K<isa>, decode_q4_K<isa>>("Q4_K", source_reader<isa>),
    row<BlockQ5_K, encode_q5_K<isa>, decode_q5_K<isa>>("Q5_K", source_reader<isa>),
    row<BlockQ6_K, encode_q6_K<isa>, decode_q6_K<isa>>("Q6_K", source_reader<isa>),
    row<BlockIQ4_NL, encode_iq4_nl<isa>, decode_iq4_nl<isa>>("IQ4_NL", source_reader<isa>),
    row<BlockIQ4_XS, encode_iq4_xs<isa>, decode_iq4_xs<isa>>("IQ4_XS", source_reader<isa>),
    row<BlockTQ1_0, encode_tq1_0<isa>, decode_tq1_0<isa>>("TQ1_0", source_reader<isa>),
    row<BlockTQ2_0, encode_tq2_0<isa>, decode_tq2_0<isa>>("TQ2_0", source_reader<isa>),
    row<BlockMXFP4, encode_mxfp4<isa>, decode_mxfp4<isa>>("MXFP4", source_reader<isa>),
};

}  // namespace

std::span<const Codec> codecs_of(Isa isa) {
    return on(isa, []<Isa built>() -> std::span<const Codec> { return table<built>; });
}

std::span<const Codec> codecs() { return codecs_of(isa_in_use()); }

const Codec* find(std::string_view name) {
    for (const Codec& codec : codecs()) {
        if (name == codec.name) return &codec;
    }
    return nullptr;
}

}  // namespace quantmill
