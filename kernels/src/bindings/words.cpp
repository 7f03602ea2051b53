#include "words.h"

#include <nanobind/stl/string.h>

#include <initializer_list>
#include <numeric>

#include "bindings/arrays.h"
#include "bindings/families.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace quantmill {
namespace {

enum class Places { in_order, awq };

constexpr Stream stream_of(int bits, Places places = Places::in_order) {
    constexpr uint8_t awq[8] = {0, 4, 1, 5, 2, 6, 3, 7};  // the nibble of column i; nibble i is column 0 2 4 6 1 3 5 7
    Stream stream = {bits, {}};
    for (uint8_t i = 0; i < codes_per_turn; ++i) {
        stream.places[i] = places == Places::awq ? static_cast<uint8_t>(i / 8 * 8 + awq[i % 8]) : i;
    }
    return stream;
}

int checked_bits(const char* format, int64_t bits, std::initializer_list<int64_t> known) {
    std::string names;
    for (const int64_t one : known) {
        if (bits == one) return static_cast<int>(bits);
        names += text(names.empty() ? "" : ", ", one);
    }
    refuse(text(format, " has codes of ", names, " bits, got ", bits));
}

int gptq_bits(int64_t bits) { return checked_bits("GPTQ", bits, {2, 3, 4, 8}); }
int quantized_bits(int64_t bits) { return checked_bits("pack-quantized", bits, {1, 2, 3, 4, 5, 6, 7, 8}); }

// How much a reader of the format adds to a stored zero point.
int reader_adds(const std::string& format) {
    if (format == "gptq") return 1;
    if (format == "gptq_v2") return 0;
    refuse(text("unknown format '", format, "', the known ones are: gptq, gptq_v2"));
}

// Without codes that begin in one word and end in the next at the end of a stream.
void require_whole_words(const char* format, int bits, size_t codes, const char* what) {
    const size_t fit = std::lcm(32, bits) / size_t(bits);
    if (codes % fit == 0) return;
    refuse(text(format, " fills whole words with ", bits, "-bit codes, ", codes, " ", what, " are not a multiple of ",
                fit));
}

std::string dtype_of_codes(const WordLayout& layout) { return layout.lowest < 0 ? "int8" : "uint8"; }

std::string sentence(const WordLayout& layout, const RefusedCode& refused, uint8_t code) {
    const int value = layout.lowest < 0 ? static_cast<int8_t>(code) : code;
    return text("row ", refused.row, ", column ", refused.col, " is ", value, ", ", layout.stream.bits, "-bit ",
                dtype_of_codes(layout), " codes are ", layout.lowest, " to ",
                layout.lowest + (1 << layout.stream.bits) - 1);
}

Matrix<int32_t> pack(const WordLayout& layout, const Array& codes, int64_t threads) {
    const size_t n_threads = checked_threads(threads), rows = codes.shape(0), cols = codes.shape(1);
    const size_t length = words_per_stream(layout, rows, cols), streams = layout.down_columns ? cols : rows;
    const bool a_stream_a_row = layout.down_columns == layout.turned;
    const Matrix<int32_t> words(a_stream_a_row ? new_array<int32_t>({streams, length})
                                               : new_array<int32_t>({length, streams}));
    const auto* const bytes = static_cast<const uint8_t*>(codes.data());
    std::optional<RefusedCode> refused;
    {
        const GilReleased others_run;
        refused = pack_words(layout, bytes, rows, cols, reinterpret_cast<uint8_t*>(words.data()), n_threads);
    }
    if (refused) refuse(sentence(layout, *refused, bytes[refused->row * cols + refused->col]));
    return words;
}

template <typename Code>
Matrix<Code> unpack(const WordLayout& layout, const Array& words, size_t rows, size_t cols, int64_t threads) {
    const size_t n_threads = checked_threads(threads);
    const Matrix<Code> codes(new_array<Code>({rows, cols}));
    const GilReleased others_run;
    unpack_words(layout, static_cast<const uint8_t*>(words.data()), rows, cols,
                 reinterpret_cast<uint8_t*>(codes.data()), n_threads);
    return codes;
}

Array checked_codes(nb::handle codes, const char* what) { return checked_array_of<uint8_t>(codes, what, 2, "uint8"); }
Array checked_words(nb::handle words, const char* what) { return checked_array_of<int32_t>(words, what, 2, "int32"); }

// ---- GPTQ ----

WordLayout gptq_layout(int bits) { return {stream_of(bits), false, true, 0, 0}; }
WordLayout gptq_zeros_layout(int bits, const std::string& format) {
    return {stream_of(bits), true, true, 0, -reader_adds(format)};
}

Matrix<int32_t> pack_gptq(nb::handle codes, int64_t bits, int64_t threads) {
    const Array array = checked_codes(codes, "codes");
    const WordLayout layout = gptq_layout(gptq_bits(bits));
    require_whole_words("GPTQ", layout.stream.bits, array.shape(1), "columns");
    return pack(layout, array, threads);
}

Matrix<int32_t> pack_gptq_zeros(nb::handle zeros, int64_t bits, const std::string& format, int64_t threads) {
    const Array array = checked_codes(zeros, "zeros");
    const WordLayout layout = gptq_zeros_layout(gptq_bits(bits), format);
    require_whole_words("GPTQ", layout.stream.bits, array.shape(0), "rows");
    return pack(layout, array, threads);
}

// How many codes whole words hold.
size_t gptq_codes(int bits, size_t words) {
    if (words % (std::lcm(32, bits) / 32) != 0) {
        refuse(text("GPTQ fills ", bits, " words with 32 codes, ", words, " words are not a multiple of that"));
    }
    return words * 32 / size_t(bits);
}

Matrix<uint8_t> unpack_gptq(nb::handle qweight, int64_t bits, int64_t threads) {
    const Array words = checked_words(qweight, "qweight");
    const WordLayout layout = gptq_layout(gptq_bits(bits));
    return unpack<uint8_t>(layout, words, words.shape(1), gptq_codes(layout.stream.bits, words.shape(0)), threads);
}

Matrix<uint8_t> unpack_gptq_zeros(nb::handle qzeros, int64_t bits, const std::string& format, int64_t threads) {
    const Array words = checked_words(qzeros, "qzeros");
    const WordLayout layout = gptq_zeros_layout(gptq_bits(bits), format);
    return unpack<uint8_t>(layout, words, gptq_codes(layout.stream.bits, words.shape(1)), words.shape(0), threads);
}

// ---- AWQ ----

WordLayout awq_layout() { return {stream_of(4, Places::awq), true, true, 0, 0}; }

Matrix<int32_t> pack_awq(nb::handle codes, int64_t threads) {
    const Array array = checked_codes(codes, "codes");
    require_whole_words("AWQ", 4, array.shape(0), "rows");
    return pack(awq_layout(), array, threads);
}

Matrix<uint8_t> unpack_awq(nb::handle words, int64_t threads) {
    const Array array = checked_words(words, "words");
    return unpack<uint8_t>(awq_layout(), array, 8 * array.shape(1), array.shape(0), threads);
}

// ---- compressed-tensors pack-quantized ----

constexpr bool down_columns = true, along_rows = false;

WordLayout quantized_layout(int bits, bool down, bool is_signed) {
    return {stream_of(bits), down, false, is_signed ? -(1 << (bits - 1)) : 0, 0};
}

Matrix<int32_t> pack_quantized_as(bool down, nb::handle codes, const char* what, int64_t bits, int64_t threads) {
    const Array array = checked_array(codes, what, 2);
    const bool is_signed = array.dtype() == nb::dtype<int8_t>();
    if (!is_signed && array.dtype() != nb::dtype<uint8_t>()) {
        refuse_type(text(what, " must be int8 or uint8, got ", dtype_name(codes)));
    }
    return pack(quantized_layout(quantized_bits(bits), down, is_signed), array, threads);
}

// The length of the streams, which the words leave open.
size_t checked_length(int64_t codes, const char* what, int bits, size_t words) {
    if (codes >= 0 && size_t(codes) <= 32 * words && words_of(size_t(codes), bits) == words) return size_t(codes);
    if (codes < 0) refuse(text(what, " must not be negative, got ", codes));
    refuse(text(codes, " ", what, " of ", bits, " bits do not fill ", words, " words"));
}

Matrix<int8_t> unpack_quantized(nb::handle packed, int64_t bits, int64_t cols, int64_t threads) {
    const Array words = checked_words(packed, "packed");
    const WordLayout layout = quantized_layout(quantized_bits(bits), along_rows, true);
    const size_t length = checked_length(cols, "columns", layout.stream.bits, words.shape(1));
    return unpack<int8_t>(layout, words, words.shape(0), length, threads);
}

Matrix<int8_t> unpack_quantized_zeros(nb::handle packed, int64_t bits, int64_t rows, int64_t threads) {
    const Array words = checked_words(packed, "packed");
    const WordLayout layout = quantized_layout(quantized_bits(bits), down_columns, true);
    const size_t length = checked_length(rows, "rows", layout.stream.bits, words.shape(0));
    return unpack<int8_t>(layout, words, length, words.shape(1), threads);
}

#define QUANTMILL_BYTES "numpy.typing.NDArray[numpy.uint8]"
#define QUANTMILL_SIGNED "numpy.typing.NDArray[numpy.int8]"
#define QUANTMILL_EITHER QUANTMILL_SIGNED " | " QUANTMILL_BYTES
#define QUANTMILL_WORDS "numpy.typing.NDArray[numpy.int32]"
#define QUANTMILL_FORMAT "format: typing.Literal['gptq', 'gptq_v2'] = 'gptq'"

void add_gptq_words(nb::module_& m) {
    m.def("pack_gptq", pack_gptq, "codes"_a, "bits"_a, nb::kw_only(), "threads"_a = 1,
          nb::sig("def pack_gptq(codes: " QUANTMILL_BYTES ", bits: int, *, threads: int = 1) -> " QUANTMILL_WORDS),
          R"(GPTQ's qweight: codes (out, in) uint8, in the order of the checkpoint's weight, to words (in * bits / 32, out).

`bits` is 2, 3, 4 or 8. Column o of the words is row o of the codes, a little-endian stream of bits: eight 4-bit codes
1 to 8 are 0x87654321, 32 codes of 3 bits fill three words. in * bits is a multiple of 32, with 3 bits in is one.

Raises ValueError for a shape, or a code of 2^bits or above, whose row and column it names, TypeError for a dtype.)");
    m.def("unpack_gptq", unpack_gptq, "qweight"_a, "bits"_a, nb::kw_only(), "threads"_a = 1,
          nb::sig("def unpack_gptq(qweight: " QUANTMILL_WORDS ", bits: int, *, threads: int = 1) -> " QUANTMILL_BYTES),
          R"(Codes (out, in) of GPTQ's qweight, int32 (in * bits / 32, out): the inverse of pack_gptq.

Raises ValueError for a shape, TypeError for a dtype.)");
    m.def("pack_gptq_zeros", pack_gptq_zeros, "zeros"_a, "bits"_a, nb::kw_only(), "format"_a = "gptq", "threads"_a = 1,
          nb::sig("def pack_gptq_zeros(zeros: " QUANTMILL_BYTES ", bits: int, *, " QUANTMILL_FORMAT
                  ", threads: int = 1) -> " QUANTMILL_WORDS),
          R"(GPTQ's qzeros: zero points (out, groups) uint8 to words (groups, out * bits / 32).

`format` "gptq" (v1) stores zero - 1 modulo 2^bits, to which readers add 1: a zero of 0 reads as 2^bits where they
do not wrap. "gptq_v2" stores the zero itself. out * bits is a multiple of 32, with 3 bits out is one.

Raises ValueError for a shape, or a zero of 2^bits or above, whose row and column it names, TypeError for a dtype.)");
    m.def("unpack_gptq_zeros", unpack_gptq_zeros, "qzeros"_a, "bits"_a, nb::kw_only(), "format"_a = "gptq",
          "threads"_a = 1,
          nb::sig("def unpack_gptq_zeros(qzeros: " QUANTMILL_WORDS ", bits: int, *, " QUANTMILL_FORMAT
                  ", threads: int = 1) -> " QUANTMILL_BYTES),
          R"(Zero points (out, groups) of GPTQ's qzeros, int32 (groups, out * bits / 32): the inverse of pack_gptq_zeros.

Raises ValueError for a shape, TypeError for a dtype.)");
}

void add_awq_words(nb::module_& m) {
    m.def("pack_awq", pack_awq, "codes"_a, nb::kw_only(), "threads"_a = 1,
          nb::sig("def pack_awq(codes: " QUANTMILL_BYTES ", *, threads: int = 1) -> " QUANTMILL_WORDS),
          R"(AWQ's qweight in the GEMM version: 4-bit codes (out, in) uint8 to words (in, out / 8).

Nibble i of a word, from the low end, is output 0, 2, 4, 6, 1, 3, 5, 7 of its eight: codes 1 to 8 are 0x86427531. The
same makes qzeros (groups, out / 8) of zero points (out, groups). out is a multiple of 8.

Raises ValueError for a shape, or a code above 15, whose row and column it names, TypeError for a dtype.)");
    m.def("unpack_awq", unpack_awq, "words"_a, nb::kw_only(), "threads"_a = 1,
          nb::sig("def unpack_awq(words: " QUANTMILL_WORDS ", *, threads: int = 1) -> " QUANTMILL_BYTES),
          R"(Codes (out, in) of AWQ's qweight, int32 (in, out / 8), or zero points (out, groups) of its qzeros.

Raises ValueError for a shape, TypeError for a dtype.)");
}

void add_quantized_words(nb::module_& m) {
    m.def("pack_quantized",
          [](nb::handle codes, int64_t bits, int64_t threads) {
              return pack_quantized_as(along_rows, codes, "codes", bits, threads);
          },
          "codes"_a, "bits"_a, nb::kw_only(), "threads"_a = 1,
          nb::sig("def pack_quantized(codes: " QUANTMILL_EITHER ", bits: int, *, threads: int = 1) -> "
                  QUANTMILL_WORDS),
          R"(compressed-tensors' weight_packed: codes (out, in) of 1 to 8 bits to words (out, ceil(in * bits / 32)).

int8 codes are -2^(bits-1) to 2^(bits-1) - 1 and stored 2^(bits-1) higher; uint8 codes are stored as they are, so that
a solver's codes around the zero point 2^(bits-1) need no subtraction. Each row is a little-endian stream of bits
without gaps: the 4-bit codes -8, -7, 0, 1, 7, -1, 2, 3 are 0xBA7F9810. Bits that no code fills are zero.

Raises ValueError for a shape, or a code that bits do not hold, whose row and column it names, TypeError for a dtype.)");
    m.def("unpack_quantized", unpack_quantized, "packed"_a, "bits"_a, "cols"_a, nb::kw_only(), "threads"_a = 1,
          nb::sig("def unpack_quantized(packed: " QUANTMILL_WORDS ", bits: int, cols: int, *, threads: int = 1) -> "
                  QUANTMILL_SIGNED),
          R"(Signed codes (out, cols) of compressed-tensors' weight_packed, int32 (out, ceil(cols * bits / 32)).

Raises ValueError for a shape, TypeError for a dtype.)");
    m.def("pack_quantized_zeros",
          [](nb::handle zeros, int64_t bits, int64_t threads) {
              return pack_quantized_as(down_columns, zeros, "zeros", bits, threads);
          },
          "zeros"_a, "bits"_a, nb::kw_only(), "threads"_a = 1,
          nb::sig("def pack_quantized_zeros(zeros: " QUANTMILL_EITHER ", bits: int, *, threads: int = 1) -> "
                  QUANTMILL_WORDS),
          R"(compressed-tensors' weight_zero_point: zero points (out, groups) to words (ceil(out * bits / 32), groups).

Each column is a stream of bits; values are stored as pack_quantized stores codes.

Raises ValueError for a shape, or a zero that bits do not hold, whose row and column it names, TypeError for a dtype.)");
    m.def("unpack_quantized_zeros", unpack_quantized_zeros, "packed"_a, "bits"_a, "rows"_a, nb::kw_only(),
          "threads"_a = 1,
          nb::sig("def unpack_quantized_zeros(packed: " QUANTMILL_WORDS
                  ", bits: int, rows: int, *, threads: int = 1) -> " QUANTMILL_SIGNED),
          R"(Signed zero points (rows, groups) of compressed-tensors' weight_zero_point.

Raises ValueError for a shape, TypeError for a dtype.)");
}

}  // namespace

void add_words(nb::module_& m) {
    add_gptq_words(m);
    add_awq_words(m);
    add_quantized_words(m);
}

}  // namespace quantmill
