// Threads that work on one call together.

#pragma once

#include <cstdint>
#include <utility>

namespace jaxrnn {

constexpr int MOST_THREADS = 64;
constexpr int TASKS_EACH = 4;  // at most, so that a thread which was held up leaves some to the others

// What a thread does for a task before it waits for a step, and then.
struct StepWork {
  using Run = void (*)(const void* of, int64_t step, int task);
  Run before, run;
  const void* of;
};

// The threads of one call: the calling one, which alone knows what comes next, and helpers, which it shares tasks
// with.
//
// It never waits for a helper that has not begun something: on a busy machine, where helpers come late, it does all
// itself. Helpers are kept from call to call; where another call has them, and in a child of fork, there are none.
class Team {
 public:
  explicit Team(int wanted);
  ~Team();
  Team(const Team&) = delete;
  Team& operator=(const Team&) = delete;

  int size() const { return size_; }

  // Do `before(step, task)` and `work(step, task)` for each of up to `size()` tasks and each step in turn. All
  // tasks are done with the work of a step before that of the next begins; what is to be done before it does not
  // wait, and may touch only what is its task's own. For `stretch` steps a task stays with its thread, and a step
  // costs one line of the cache from each thread to the others. A helper that comes late has to wait for the next
  // stretch.
  template <typename Before, typename Work>
  void each_step(int64_t steps, int tasks, int64_t stretch, const Before& before, const Work& work) {
    const std::pair<const Before&, const Work&> both{before, work};
    using Both = decltype(both);
    run_steps(steps, tasks, stretch,
              {[](const void* of, int64_t step, int task) { static_cast<Both*>(of)->first(step, task); },
               [](const void* of, int64_t step, int task) { static_cast<Both*>(of)->second(step, task); }, &both});
  }

  // Do `work(task)` for each of up to `size() * TASKS_EACH` tasks, and return when all are done.
  template <typename Work>
  void each(int tasks, const Work& work) {
    run(tasks, [](const void* of, int task) { (*static_cast<const Work*>(of))(task); }, &work);
  }

 private:
  using Run = void (*)(const void* work, int task);
  void run(int tasks, Run run, const void* work);
  void run_steps(int64_t steps, int tasks, int64_t stretch, const StepWork& work);

  int size_;
};

}  // namespace jaxrnn
