// The laws of the thread pool alone: a program small enough to be built for ThreadSanitizer beside the others.
#include "laws.h"

int main() {
    quantmill::thread_laws();
    return quantmill::report();
}
