// The Python skin: checks what came in, releases the GIL, calls. Nothing is computed here.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/string.h>

#include <charconv>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <optional>
#include <string>
#include <type_traits>
#include <vector>

#include "codec.h"
#include "isa.h"
#include "rows.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace quantmill {
namespace {

using Array = nb::ndarray<nb::ro, nb::device::cpu>;
template <typename Scalar>
using Matrix = nb::ndarray<nb::numpy, Scalar, nb::ndim<2>>;

constexpr int64_t most_threads = 1024;

template <typename... Parts>
std::string text(const Parts&... parts) {
    std::string whole;
    const auto append = [&whole](const auto& part) {
        if constexpr (std::is_arithmetic_v<std::decay_t<decltype(part)>>) {
            whole += std::to_string(part);
        } else {
            whole += part;
        }
    };
    (append(parts), ...);
    return whole;
}

// The fewest digits that are this float32 and no other.
std::string text_of(float value) {
    char digits[32];
    return std::string(digits, std::to_chars(digits, digits + sizeof digits, value).ptr);
}

[[noreturn]] void refuse(const std::string& message) { throw nb::value_error(message.c_str()); }
[[noreturn]] void refuse_type(const std::string& message) { throw nb::type_error(message.c_str()); }

const Codec& codec_named(const std::string& name) {
    if (const Codec* const codec = find(name)) return *codec;
    std::string known;
    for (const Codec& codec : column().codecs) known += text(known.empty() ? "" : ", ", codec.name);
    refuse(text("unknown format '", name, "', the known ones are: ", known));
}

size_t checked_threads(int64_t threads) {
    if (threads < 1 || threads > most_threads) refuse(text("threads must be 1 to ", most_threads, ", got ", threads));
    return static_cast<size_t>(threads);
}

std::string dtype_name(nb::handle array) { return nb::cast<std::string>(array.attr("dtype").attr("name")); }

// `object` as an array of `ndim` dimensions in C order. ml_dtypes' bfloat16, which no exchange protocol of numpy
// carries, is viewed as its bits.
Array checked_array(nb::handle object, const char* what, size_t ndim) {
    if (!nb::isinstance(object, nb::module_::import_("numpy").attr("ndarray"))) {
        refuse_type(text(what, " must be a numpy array, got ", nb::cast<std::string>(nb::inst_name(object))));
    }
    const bool bfloat16 = dtype_name(object) == "bfloat16";
    const nb::object exchangeable = bfloat16 ? object.attr("view")("uint16") : nb::borrow(object);
    Array array;
    if (!nb::try_cast(exchangeable, array)) {
        const std::string dtype = nb::cast<std::string>(nb::repr(object.attr("dtype")));
        refuse_type(text(what, " has a dtype that cannot be read in place: ", dtype));
    }
    if (array.ndim() != ndim) refuse(text(what, " must have ", ndim, " dimensions, got ", array.ndim()));
    if (!nb::cast<bool>(object.attr("flags").attr("c_contiguous"))) refuse(text(what, " must be C-contiguous"));
    return array;
}

Source source_of(nb::handle values, const Array& array) {
    if (array.dtype() == nb::dtype<float>()) return Source::float32;
    if (array.dtype() == nb::dlpack::dtype{uint8_t(nb::dlpack::dtype_code::Float), 16, 1}) return Source::float16;
    if (array.dtype() == nb::dtype<uint16_t>()) return Source::bfloat16;
    refuse_type(text("values must be float32, float16 or bfloat16 (also as uint16 bits), got ", dtype_name(values)));
}

// A copy, because a view of a file may stand at any address.
std::vector<float> checked_imatrix(nb::handle imatrix, size_t cols) {
    const Array array = checked_array(imatrix, "imatrix", 1);
    if (array.dtype() != nb::dtype<float>()) refuse_type(text("imatrix must be float32, got ", dtype_name(imatrix)));
    if (array.shape(0) != cols) refuse(text("imatrix has ", array.shape(0), " values for ", cols, " columns"));
    std::vector<float> weights(cols);
    if (cols > 0) std::memcpy(weights.data(), array.data(), cols * sizeof(float));
    for (size_t col = 0; col < cols; ++col) {
        if (std::isfinite(weights[col]) && weights[col] >= 0.0f) continue;
        refuse(text("imatrix must be finite and not negative, column ", col, " is ", text_of(weights[col])));
    }
    return weights;
}

template <typename Scalar>
Matrix<Scalar> new_matrix(Scalar* data, nb::capsule owner, size_t rows, size_t cols) {
    return Matrix<Scalar>(data, {rows, cols}, owner);
}

template <typename Scalar>
nb::capsule owning(Scalar* data) {
    return nb::capsule(data, [](void* pointer) noexcept { delete[] static_cast<Scalar*>(pointer); });
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
    uint8_t* const packed = new uint8_t[rows * row_bytes];
    const nb::capsule owner = owning(packed);
    std::optional<Refused> refused;
    {
        const nb::gil_scoped_release unlocked;
        refused = encode_rows(codec, source, array.data(), rows, cols, weights ? weights->data() : nullptr, packed,
                              n_threads);
    }
    if (refused) refuse(sentence(codec, *refused));
    return new_matrix(packed, owner, rows, row_bytes);
}

Matrix<float> decode(const std::string& format, nb::handle packed, int64_t cols, int64_t threads) {
    const Codec& codec = codec_named(format);
    const size_t n_threads = checked_threads(threads);
    const Array array = checked_array(packed, "packed", 2);
    if (array.dtype() != nb::dtype<uint8_t>()) refuse_type(text("packed must be uint8, got ", dtype_name(packed)));
    const size_t rows = array.shape(0), row_bytes = array.shape(1);
    if (cols < 0 || cols % codec.block_values != 0) {
        refuse(text(codec.name, " packs blocks of ", codec.block_values, " values, ", cols,
                    " columns are not a multiple of that"));
    }
    if (row_bytes % codec.block_bytes != 0 || row_bytes / codec.block_bytes != cols / codec.block_values) {
        refuse(text(cols, " columns of ", codec.name, " are ", cols / codec.block_values, " blocks of ",
                    codec.block_bytes, " bytes, a row of packed has ", row_bytes, " bytes"));
    }
    float* const values = new float[rows * cols];
    const nb::capsule owner = owning(values);
    {
        const nb::gil_scoped_release unlocked;
        decode_rows(codec, array.data(), rows, cols, values, n_threads);
    }
    return new_matrix(values, owner, rows, cols);
}

double bits_per_weight(const Codec& codec) { return 8.0 * codec.block_bytes / codec.block_values; }

nb::dict formats() {
    nb::dict by_name;
    for (const Codec& codec : column().codecs) by_name[codec.name] = nb::cast(&codec, nb::rv_policy::reference);
    return by_name;
}

NB_MODULE(_native, m) {
    nb::set_leak_warnings(false);  // whatever still holds a Format when Python ends is not ours to complain about
    column();  // a wrong QUANTMILL_ISA stops the import, not the first tensor

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
    m.def("isa", [] { return name(column().isa); },
          "The instruction set that runs: scalar, avx2, avx512 or neon. QUANTMILL_ISA forces one; read at import.");
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

}  // namespace
}  // namespace quantmill
