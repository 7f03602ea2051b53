#!/bin/sh
# Builds the NEON column with a cross compiler and runs the laws of tests/kernels/native under qemu-user.
# Debian: apt-get install g++-aarch64-linux-gnu qemu-user. Prints the number of broken laws, fails if any is.
set -eu
cd "$(dirname "$0")/../.."
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

flags="-std=c++20 -O2 -ffp-contract=off -fno-math-errno -fno-trapping-math -Wall -Wextra -Ikernels/src"
compile() {  # object, source, definitions
    echo "aarch64-linux-gnu-g++ $flags $3 -c $2 -o $folder/$1.o"
}
{
    for name in isa codec rows threads; do compile "$name" "kernels/src/$name.cpp" -DQUANTMILL_HAS_neon; done
    compile laws tests/kernels/native/laws.cpp -DQUANTMILL_HAS_neon
    for column in scalar neon; do
        for source in kernels/src/source.cpp kernels/src/formats/*.cpp; do
            compile "$(basename "$source" .cpp)_$column" "$source" "-DQUANTMILL_UNIT=$column"
        done
    done
} | xargs -d '\n' -P "$(nproc)" -I{} sh -c '{}'
aarch64-linux-gnu-g++ -static -pthread "$folder"/*.o -o "$folder/laws"
qemu-aarch64 "$folder/laws"
