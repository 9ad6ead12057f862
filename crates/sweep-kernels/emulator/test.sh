#!/usr/bin/env bash
# The self test of the emulated device: its own kernels, all orders of threads, eager and lazy streams.
#   usage: test.sh OUT     (builds into OUT/selftest)
set -euo pipefail

here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
[ $# -eq 1 ] || { echo "usage: test.sh OUT" >&2; exit 2; }
out="$1/selftest"
"$here/build.sh" "$out" "$here/tests/kernels.cu"
g++ -std=c++17 -O2 -Wall -Wextra -pthread -o "$out/selftest" "$here/tests/selftest.cpp" -L "$out/lib" \
  -l:libcudnn.so.9 -l:libcublas.so.13 -l:libcublasLt.so.13 -l:libcuda.so.1 -Wl,-rpath,"$(cd "$out" && pwd)/lib"
for order in forward reverse random; do
  for streams in eager lazy; do
    for threads in 1 2 5; do
      echo "order $order, streams $streams, threads $threads:"
      SWEEP_EMULATOR_ORDER=$order SWEEP_EMULATOR_STREAMS=$streams SWEEP_EMULATOR_THREADS=$threads "$out/selftest"
    done
  done
done
echo "the emulated device holds"
