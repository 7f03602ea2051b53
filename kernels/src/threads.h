// Rows as work. Threads live for one call: nothing is left running that a fork would lose.
#pragma once

#include <cstddef>
#include <functional>

namespace quantmill {

// Calls `work(first, last)` on the calling thread and up to `threads - 1` others until rows [0, rows) are done or a
// call returns false. Ranges of at most `grain` rows are handed out in increasing order, and those handed out are
// finished: when some call returned false, every row below its range has been worked on. An exception of `work` stops
// the others too and is thrown here again.
void for_rows(size_t rows, size_t grain, size_t threads, const std::function<bool(size_t, size_t)>& work);

}  // namespace quantmill
