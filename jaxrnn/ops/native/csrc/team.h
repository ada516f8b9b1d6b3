// Threads that work on one call together.

#pragma once

#include <atomic>

namespace jaxrnn {

// Where all threads of a team wait for the last one.
class Barrier {
 public:
  void wait(int members);

 private:
  std::atomic<int> arrived_{0};
  std::atomic<unsigned> passed_{0};
};

// What a team's members are told to do: `run(work, member, members)`.
using Run = void (*)(void* work, int member, int members);

constexpr int MOST_THREADS = 64;

// Run on up to `wanted` threads at once, the calling one among them. Threads are kept; where another call has them,
// and in a child of fork, the calling one works alone.
void run_together(int wanted, Run run, void* work);

}  // namespace jaxrnn
