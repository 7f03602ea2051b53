// Matrices of weights as arguments, and arguments that are one of a few words.
#pragma once

#include <array>
#include <optional>

#include "bindings/arrays.h"
#include "weights.h"

namespace quantmill {

// (rows, cols) of a dtype that can be a source, C-contiguous; keeps the array alive.
struct CheckedWeights {
    explicit CheckedWeights(nanobind::handle values)
        : array(checked_array(values, "values", 2)),
          weights{source_of(values, array), array.data(), array.shape(0), array.shape(1)} {}

    Array array;
    Weights weights;
};

inline void refuse_if(const std::optional<RefusedWeight>& refused) {
    if (!refused) return;
    refuse(text("row ", refused->row, ", column ", refused->col, " is ", text_of(refused->value),
                ", only finite values can be encoded"));
}

template <typename Value>
struct Choice {
    const char* name;
    Value value;
};

template <typename Value, size_t n>
Value chosen(const std::array<Choice<Value>, n>& choices, const char* what, const std::string& name) {
    std::string known;
    for (const Choice<Value>& choice : choices) {
        if (name == choice.name) return choice.value;
        known += text(known.empty() ? "" : ", ", choice.name);
    }
    refuse(text(what, " must be one of ", known, ", got '", name, "'"));
}

}  // namespace quantmill
