#include <nanobind/stl/string.h>

#include <cmath>
#include <cstring>
#include <optional>
#include <vector>

#include "bindings/arrays.h"
#include "bindings/families.h"
#include "codec.h"
#include "rows.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace quantmill {
namespace {

const Codec& codec_named(const std::string& name) {
    if (const Codec* const codec = find(name)) return *codec;
    std::string known;
    for (const Codec& codec : codecs()) known += text(known.empty() ? "" : ", ", codec.name);
    refuse(text("unknown format '", name, "', the known ones are: ", known));
}

// A copy, because a view of a file may stand at any address.
std::vector<float> checked_imatrix(nb::handle imatrix, size_t cols) {
    const Array array = checked_array_of<float>(imatrix, "imatrix", 1, "float32");
    if (array.shape(0) != cols) refuse(text("imatrix has ", array.shape(0), " values for ", cols, " columns"));
    std::vector<float> weights(cols);
    if (cols > 0) std::memcpy(weights.data(), array.data(), cols * sizeof(float));
    for (size_t col = 0; col < cols; ++col) {
        if (std::isfinite(weights[col]) && weights[col] >= 0.0f) continue;
        refuse(text("imatrix must be finite and not negative, column ", col, " is ", text_of(weights[col])));
    }
    return weights;
}

std::string sentence(const Codec& codec, const Refused& refused) {
    const std::string place = text("row ", refused.row, ", column ", refused.col);
    switch (refused.reason) {
        case Refusal::not_finite:
            return text(place, " is ", text_of(refused.value), ", only finite values can be encoded");
        case Refusal::too_large:
            return text(place, " is ", text_of(refused.value), ", the largest magnitude ", codec.name, " can hold is ",
                        text_of(codec.largest));
        case Refusal::scale_overflow:
            return text(place, ": the ", codec.block_values, " values from there on need a scale that float16 cannot ",
                        "hold, so ", codec.name, " cannot hold them");
    }
    return place;
}

Matrix<uint8_t> encode(const std::string& format, nb::handle values, nb::handle imatrix, int64_t threads) {
    const Codec& codec = codec_named(format);
    const size_t n_threads = checked_threads(threads);
    const Array array = checked_array(values, "values", 2);
    const Source source = source_of(values, array);
    const size_t rows = array.shape(0), cols = array.shape(1);
    if (cols % codec.block_values != 0) {
        refuse(text(codec.name, " packs blocks of ", codec.block_values, " values, ", cols,
                    " columns are not a multiple of that"));
    }
    std::optional<std::vector<float>> weights;
    if (!imatrix.is_none()) weights = checked_imatrix(imatrix, cols);
    const size_t row_bytes = cols / codec.block_values * codec.block_bytes;
    const Matrix<uint8_t> packed(new_array<uint8_t>({rows, row_bytes}));
    std::optional<Refused> refused;
    {
        const GilReleased others_run;
        refused = encode_rows(codec, source, array.data(), rows, cols, weights ? weights->data() : nullptr,
                              packed.data(), n_threads);
    }
    if (refused) refuse(sentence(codec, *refused));
    return packed;
}

Matrix<float> decode(const std::string& format, nb::handle packed, int64_t cols, int64_t threads) {
    const Codec& codec = codec_named(format);
    const size_t n_threads = checked_threads(threads);
    const Array array = checked_array_of<uint8_t>(packed, "packed", 2, "uint8");
    const size_t rows = array.shape(0), row_bytes = array.shape(1);
    if (cols < 0 || cols % codec.block_values != 0) {
        refuse(text(codec.name, " packs blocks of ", codec.block_values, " values, ", cols,
                    " columns are not a multiple of that"));
    }
    if (row_bytes % codec.block_bytes != 0 || row_bytes / codec.block_bytes != cols / codec.block_values) {
        refuse(text(cols, " columns of ", codec.name, " are ", cols / codec.block_values, " blocks of ",
                    codec.block_bytes, " bytes, a row of packed has ", row_bytes, " bytes"));
    }
    const Matrix<float> values(new_array<float>({rows, size_t(cols)}));
    {
        const GilReleased others_run;
        decode_rows(codec, array.data(), rows, cols, values.data(), n_threads);
    }
    return values;
}

double bits_per_weight(const Codec& codec) { return 8.0 * codec.block_bytes / codec.block_values; }

nb::dict formats() {
    nb::dict by_name;
    for (const Codec& codec : codecs()) by_name[codec.name] = nb::cast(&codec, nb::rv_policy::reference);
    return by_name;
}

}  // namespace

void add_codecs(nb::module_& m) {
    nb::class_<Codec>(m, "Format", "A storage format: how many values share a block, and how long the block is.")
        .def_prop_ro("name", [](const Codec& codec) { return codec.name; }, "GGML's own spelling, for instance Q4_K.")
        .def_ro("block_values", &Codec::block_values, "Values that share a block; columns are a multiple of this.")
        .def_ro("block_bytes", &Codec::block_bytes, "Bytes of a block.")
        .def_prop_ro("bits_per_weight", bits_per_weight, "Stored bits per value, scales included.")
        .def("__repr__", [](const Codec& codec) {
            return text("Format(name='", codec.name, "', block_values=", codec.block_values, ", block_bytes=",
                        codec.block_bytes, ", bits_per_weight=", text_of(float(bits_per_weight(codec))), ")");
        });

    m.def("formats", formats, nb::sig("def formats() -> dict[str, Format]"), "Every known format by name.");
    m.def("encode", encode, "format"_a, "values"_a, nb::kw_only(), "imatrix"_a = nb::none(), "threads"_a = 1,
          nb::sig("def encode(format: str, values: numpy.typing.NDArray[typing.Any], *, "
                  "imatrix: numpy.typing.NDArray[numpy.float32] | None = None, threads: int = 1) "
                  "-> numpy.typing.NDArray[numpy.uint8]"),
          R"(Quantize each row of a matrix: (rows, cols) values to (rows, row_bytes) bytes.

`values` is float32, float16 or bfloat16 (ml_dtypes.bfloat16, or its bits as uint16), C-contiguous, finite; cols is a
multiple of the format's block_values. `imatrix`, float32 (cols,), finite and not negative, weights the squared error of
each column; formats that know no importance matrix ignore it. The bytes do not depend on `threads`.

Raises ValueError for a shape, a value or a name that does not fit, TypeError for a dtype.)");
    m.def("decode", decode, "format"_a, "packed"_a, "cols"_a, nb::kw_only(), "threads"_a = 1,
          nb::sig("def decode(format: str, packed: numpy.typing.NDArray[numpy.uint8], cols: int, *, threads: int = 1) "
                  "-> numpy.typing.NDArray[numpy.float32]"),
          R"(Values of packed rows: (rows, row_bytes) uint8, C-contiguous, to (rows, cols) float32.

Any bytes are accepted; a scale that is not finite gives values that are not finite.

Raises ValueError for a shape or a name that does not fit, TypeError for a dtype.)");
}

}  // namespace quantmill
