#include "bitsandbytes.h"

#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>

#include <bit>
#include <cmath>
#include <cstring>
#include <optional>
#include <tuple>
#include <vector>

#include "bindings/arrays.h"
#include "bindings/families.h"
#include "nested_absmax.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace quantmill {
namespace {

using Shape = std::tuple<int64_t, int64_t>;

QuantType checked_type(const std::string& name) {
    if (name == "nf4") return QuantType::nf4;
    if (name == "fp4") return QuantType::fp4;
    refuse(text("quant_type must be nf4 or fp4, got '", name, "'"));
}

size_t checked_block_size(int64_t block_size) {
    if (block_size < 32 || block_size > 4096 || !std::has_single_bit(static_cast<uint64_t>(block_size))) {
        refuse(text("block_size must be a power of two from 32 to 4096, got ", block_size));
    }
    return static_cast<size_t>(block_size);
}

size_t blocks_of(size_t n, size_t block_size) { return (n + block_size - 1) / block_size; }

size_t checked_values(const Shape& shape) {
    const auto [rows, cols] = shape;
    int64_t n;
    if (rows < 0 || cols < 0 || __builtin_mul_overflow(rows, cols, &n)) {
        refuse(text("shape must be two sizes, got (", rows, ", ", cols, ")"));
    }
    return static_cast<size_t>(n);
}

void check_finite(const std::optional<NotFinite>& found, size_t cols) {
    if (!found) return;
    refuse(text("row ", found->index / cols, ", column ", found->index % cols, " is ", text_of(found->value),
                ", only finite values can be encoded"));
}

void check_length(const Array& array, const char* what, size_t expected, const std::string& of) {
    if (array.shape(0) != expected) refuse(text(of, " have ", expected, " ", what, ", got ", array.shape(0)));
}

// A copy, because a view of a file may stand at any address.
std::vector<float> floats_of(const Array& array) {
    std::vector<float> floats(array.shape(0));
    if (!floats.empty()) std::memcpy(floats.data(), array.data(), floats.size() * sizeof(float));
    return floats;
}

template <size_t n>
Vector<float> vector_of(std::span<const float, n> floats) {
    const Vector<float> vector(new_array<float>({n}));
    std::memcpy(vector.data(), floats.data(), floats.size_bytes());
    return vector;
}

nb::tuple encode_4bit(const std::string& quant_type, nb::handle values, int64_t block_size, int64_t threads) {
    const QuantType type = checked_type(quant_type);
    const size_t values_per_block = checked_block_size(block_size), n_threads = checked_threads(threads);
    const Array array = checked_array(values, "values", 2);
    const Source source = source_of(values, array);
    const size_t n = array.shape(0) * array.shape(1);
    const Vector<uint8_t> packed(new_array<uint8_t>({(n + 1) / 2}));
    const Vector<float> absmax(new_array<float>({blocks_of(n, values_per_block)}));
    std::optional<NotFinite> found;
    {
        const GilReleased others_run;
        found = encode_4bit_matrix(type, source, array.data(), n, values_per_block, packed.data(), absmax.data(),
                                       n_threads);
    }
    check_finite(found, array.shape(1));
    return nb::make_tuple(packed, absmax);
}

Matrix<float> decode_4bit(const std::string& quant_type, nb::handle packed, nb::handle absmax, const Shape& shape,
                          int64_t block_size, int64_t threads) {
    const QuantType type = checked_type(quant_type);
    const size_t values_per_block = checked_block_size(block_size), n_threads = checked_threads(threads);
    const size_t n = checked_values(shape);
    const Array bytes = checked_array_of<uint8_t>(packed, "packed", 1, "uint8");
    const Array scales = checked_array_of<float>(absmax, "absmax", 1, "float32");
    check_length(bytes, "bytes", (n + 1) / 2, text(n, " values"));
    check_length(scales, "absmax", blocks_of(n, values_per_block), text(n, " values in blocks of ", block_size));
    const std::vector<float> scale_of = floats_of(scales);
    const Matrix<float> values(new_array<float>({size_t(std::get<0>(shape)), size_t(std::get<1>(shape))}));
    {
        const GilReleased others_run;
        decode_4bit_matrix(type, static_cast<const uint8_t*>(bytes.data()), scale_of.data(), n, values_per_block,
                               values.data(), n_threads);
    }
    return values;
}

nb::tuple encode_absmax(nb::handle absmax, int64_t block_size) {
    const size_t values_per_block = checked_block_size(block_size);
    const std::vector<float> values = floats_of(checked_array_of<float>(absmax, "absmax", 1, "float32"));
    if (values.empty()) refuse("absmax has 0 values, their mean is not defined");
    for (size_t block = 0; block < values.size(); ++block) {
        if (std::isfinite(values[block])) continue;
        refuse(text("absmax of block ", block, " is ", text_of(values[block]), ", only finite values can be encoded"));
    }
    const Vector<uint8_t> codes(new_array<uint8_t>({values.size()}));
    const Vector<float> nested(new_array<float>({blocks_of(values.size(), values_per_block)}));
    const float offset = mean_of(values.data(), values.size());
    if (!std::isfinite(offset)) refuse("the sum of absmax is above what float32 can hold");
    encode_nested(values.data(), values.size(), values_per_block, offset, codes.data(), nested.data());
    return nb::make_tuple(codes, nested, static_cast<double>(offset));
}

Vector<float> decode_absmax(nb::handle codes, nb::handle nested_absmax, double offset, int64_t block_size) {
    const size_t values_per_block = checked_block_size(block_size);
    const Array bytes = checked_array_of<uint8_t>(codes, "codes", 1, "uint8");
    const Array scales = checked_array_of<float>(nested_absmax, "nested_absmax", 1, "float32");
    const size_t n = bytes.shape(0);
    check_length(scales, "nested_absmax", blocks_of(n, values_per_block), text(n, " codes in blocks of ", block_size));
    const Vector<float> absmax(new_array<float>({n}));
    decode_nested(static_cast<const uint8_t*>(bytes.data()), floats_of(scales).data(), n, values_per_block,
                             static_cast<float>(offset), absmax.data());
    return absmax;
}

nb::tuple encode_int8_rows(nb::handle values, int64_t threads) {
    const size_t n_threads = checked_threads(threads);
    const Array array = checked_array(values, "values", 2);
    const Source source = source_of(values, array);
    const size_t rows = array.shape(0), cols = array.shape(1);
    const Matrix<int8_t> codes(new_array<int8_t>({rows, cols}));
    const Vector<float> absmax(new_array<float>({rows}));
    std::optional<NotFinite> found;
    {
        const GilReleased others_run;
        found = encode_int8_matrix(source, array.data(), rows, cols, codes.data(), absmax.data(), n_threads);
    }
    check_finite(found, cols);
    return nb::make_tuple(codes, absmax);
}

Matrix<float> decode_int8_rows(nb::handle codes, nb::handle absmax, int64_t threads) {
    const size_t n_threads = checked_threads(threads);
    const Array bytes = checked_array_of<int8_t>(codes, "codes", 2, "int8");
    const Array scales = checked_array_of<float>(absmax, "absmax", 1, "float32");
    const size_t rows = bytes.shape(0), cols = bytes.shape(1);
    check_length(scales, "absmax", rows, text(rows, " rows"));
    const std::vector<float> scale_of = floats_of(scales);
    const Matrix<float> values(new_array<float>({rows, cols}));
    {
        const GilReleased others_run;
        decode_int8_matrix(static_cast<const int8_t*>(bytes.data()), scale_of.data(), rows, cols,
                                    values.data(), n_threads);
    }
    return values;
}

}  // namespace

void add_bitsandbytes(nb::module_& m) {
    m.def("encode_4bit", encode_4bit, "quant_type"_a, "values"_a, nb::kw_only(), "block_size"_a = 64, "threads"_a = 1,
          nb::sig("def encode_4bit(quant_type: str, values: numpy.typing.NDArray[typing.Any], *, block_size: int = 64, "
                  "threads: int = 1) -> tuple[numpy.typing.NDArray[numpy.uint8], numpy.typing.NDArray[numpy.float32]]"),
          R"(Quantize a matrix to bitsandbytes' NF4 or FP4: (packed, absmax).

`quant_type` is nf4 or fp4. `values`, (rows, cols), is float32, float16 or bfloat16 (ml_dtypes.bfloat16, or its bits as
uint16), C-contiguous, finite. Blocks of `block_size` (a power of two, 32 to 4096) run over the flattened matrix, across
rows; the last one may be shorter. `packed` is uint8 (ceil(rows * cols / 2),), the first of two values in the high half
of a byte; `absmax` is float32 (ceil(rows * cols / block_size),). Both are what bitsandbytes gives on a CPU.

Raises ValueError for a shape, a value or a name that does not fit, TypeError for a dtype.)");
    m.def("decode_4bit", decode_4bit, "quant_type"_a, "packed"_a, "absmax"_a, "shape"_a, nb::kw_only(),
          "block_size"_a = 64, "threads"_a = 1,
          nb::sig("def decode_4bit(quant_type: str, packed: numpy.typing.NDArray[numpy.uint8], "
                  "absmax: numpy.typing.NDArray[numpy.float32], shape: tuple[int, int], *, block_size: int = 64, "
                  "threads: int = 1) -> numpy.typing.NDArray[numpy.float32]"),
          R"(Values of what encode_4bit gave: quant_map(quant_type)[code] * absmax, float32 of that shape.

Any bytes are accepted; an absmax that is not finite gives values that are not finite.

Raises ValueError for a size or a name that does not fit, TypeError for a dtype.)");
    m.def("encode_absmax", encode_absmax, "absmax"_a, nb::kw_only(), "block_size"_a = 256,
          nb::sig("def encode_absmax(absmax: numpy.typing.NDArray[numpy.float32], *, block_size: int = 256) "
                  "-> tuple[numpy.typing.NDArray[numpy.uint8], numpy.typing.NDArray[numpy.float32], float]"),
          R"(Double quantization of the absmax of 4-bit blocks: (codes, nested_absmax, offset).

`absmax` is float32 (blocks,), finite; `offset` is its mean, a float32; `codes`, uint8 (blocks,), stand for absmax less
the offset in units of `nested_absmax`, float32 (ceil(blocks / block_size),). They are what bitsandbytes gives on one
x86 core; with several threads or on another machine its mean may differ in the last bits.

Raises ValueError for a value, a size or a sum that does not fit, TypeError for a dtype.)");
    m.def("decode_absmax", decode_absmax, "codes"_a, "nested_absmax"_a, "offset"_a, nb::kw_only(), "block_size"_a = 256,
          nb::sig("def decode_absmax(codes: numpy.typing.NDArray[numpy.uint8], "
                  "nested_absmax: numpy.typing.NDArray[numpy.float32], offset: float, *, block_size: int = 256) "
                  "-> numpy.typing.NDArray[numpy.float32]"),
          R"(The absmax that the codes stand for: dynamic_map()[code] * nested_absmax + offset, float32 (blocks,).

Raises ValueError for a size that does not fit, TypeError for a dtype.)");
    m.def("encode_int8_rows", encode_int8_rows, "values"_a, nb::kw_only(), "threads"_a = 1,
          nb::sig("def encode_int8_rows(values: numpy.typing.NDArray[typing.Any], *, threads: int = 1) "
                  "-> tuple[numpy.typing.NDArray[numpy.int8], numpy.typing.NDArray[numpy.float32]]"),
          R"(Quantize each row of a matrix to LLM.int8()'s int8: (codes, absmax).

`values`, (rows, cols), is float32, float16 or bfloat16 (ml_dtypes.bfloat16, or its bits as uint16), C-contiguous,
finite. `codes` is int8 (rows, cols), value * (127 / absmax) rounded half to even; `absmax` is float32 (rows,), the SCB
of a checkpoint. Both are what bitsandbytes gives on a CPU. A row whose absmax is below 3.8e-37 has the codes 0.

Raises ValueError for a shape or a value that does not fit, TypeError for a dtype.)");
    m.def("decode_int8_rows", decode_int8_rows, "codes"_a, "absmax"_a, nb::kw_only(), "threads"_a = 1,
          nb::sig("def decode_int8_rows(codes: numpy.typing.NDArray[numpy.int8], "
                  "absmax: numpy.typing.NDArray[numpy.float32], *, threads: int = 1) "
                  "-> numpy.typing.NDArray[numpy.float32]"),
          R"(Values of what encode_int8_rows gave: code * absmax / 127, float32 (rows, cols).

Raises ValueError for a size that does not fit, TypeError for a dtype.)");
    m.def("quant_map", [](const std::string& quant_type) { return vector_of(quant_map(checked_type(quant_type))); },
          "quant_type"_a,
          nb::sig("def quant_map(quant_type: str) -> numpy.typing.NDArray[numpy.float32]"),
          "The values of the codes of nf4 or fp4, float32 (16,): the quant_map of a checkpoint.");
    m.def("dynamic_map", [] { return vector_of(std::span(dynamic_map())); },
          nb::sig("def dynamic_map() -> numpy.typing.NDArray[numpy.float32]"),
          "The values of the codes of encode_absmax, float32 (256,): the nested_quant_map of a checkpoint.");
}

}  // namespace quantmill
