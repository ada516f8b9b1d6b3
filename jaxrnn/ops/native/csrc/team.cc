#include "team.h"

#include <unistd.h>

#if defined(__linux__)
#include <pthread.h>
#include <sched.h>
#endif

#include <algorithm>
#include <array>
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <system_error>
#include <thread>
#include <vector>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace jaxrnn {
namespace {

constexpr int MOST_TASKS = MOST_THREADS * TASKS_EACH;
// How long to look for what is to come before giving way to other threads: some tens of microseconds.
constexpr int SPINS = 2000;
constexpr int FEW_PROCESSORS = 8;  // with more there is an idle one, and it takes long to tell all helpers

inline void relax() {
#if defined(__x86_64__)
  _mm_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

class Patience {
 public:
  // Wait a moment; return whether there is patience left.
  bool wait() {
    if (spins_ < SPINS) {
      ++spins_;
      relax();
      return true;
    }
    std::this_thread::yield();
    return false;
  }

 private:
  int spins_ = 0;
};

// The processors that helpers may run on: not the caller's, if there is another one for each. A system that wakes
// threads where they are called from would let a helper wait there until the caller is done, beside an idle
// processor.
class Places {
 public:
#if defined(__linux__)
  void leave_caller_alone(std::vector<std::thread>& helpers) {
    cpu_set_t processors;
    if (sched_getaffinity(0, sizeof processors, &processors) != 0) return;
    const int own = sched_getcpu(), count = CPU_COUNT(&processors);
    const bool are_few = static_cast<int>(helpers.size()) < count && count <= FEW_PROCESSORS;
    if (own >= 0 && are_few) CPU_CLR(own, &processors);
    if (told_ == helpers.size() && CPU_EQUAL(&processors, &processors_)) return;
    for (std::thread& each : helpers) pthread_setaffinity_np(each.native_handle(), sizeof processors, &processors);
    processors_ = processors;
    told_ = helpers.size();
  }

 private:
  cpu_set_t processors_{};
  size_t told_ = 0;  // helpers
#else
  void leave_caller_alone(std::vector<std::thread>&) {}
#endif
};

class Crew {
 public:
  using Run = void (*)(const void* work, int task);

  // Begin a call; return the threads that it has.
  int begin(int wanted) {
    if (wanted <= 1 || getpid() != process_ || !busy_.try_lock()) return 1;
    const int size = hire(std::min(wanted, MOST_THREADS));
    if (size == 1) {
      busy_.unlock();
      return 1;
    }
    places_.leave_caller_alone(helpers_);
    size_.store(size, std::memory_order_relaxed);
    in_call_.store(true);
    if (sleeping_.load() > 0) {
      const std::lock_guard<std::mutex> lock(mutex_);  // so that one that is about to sleep hears it, too
      called_.notify_all();
    }
    return size;
  }

  void end() {
    in_call_.store(false);
    busy_.unlock();
  }

  void run(int tasks, Run run, const void* work) {
    run_ = run;
    work_ = work;
    done_.store(0, std::memory_order_relaxed);
    const uint64_t round = open(tasks, false);
    serve(round, 0);
    for (Patience patience; done_.load(std::memory_order_acquire) < tasks;) patience.wait();
  }

  void run_steps(int64_t steps, int tasks, int64_t stretch, const StepWork& work) {
    step_work_ = work;
    for (int64_t first = 0; first < steps; first += stretch) {
      first_ = first;
      end_ = std::min(first + stretch, steps);
      for (int task = 0; task < tasks; ++task) tasks_of_[task].step.store(first, std::memory_order_relaxed);
      lead(open(tasks, true), tasks);
    }
  }

 private:
  // A task of a round is open while its state is twice the round, and taken one later: who comes late takes
  // nothing.
  struct alignas(64) Task {
    std::atomic<uint64_t> state{0};
    alignas(64) std::atomic<int64_t> step{0};  // that it comes to next, in a stretch of steps
  };

  uint64_t open(int tasks, bool has_steps) {
    const uint64_t round = round_.load(std::memory_order_relaxed) + 1;
    tasks_.store(tasks, std::memory_order_relaxed);
    has_steps_.store(has_steps, std::memory_order_relaxed);
    for (int task = 0; task < tasks; ++task) tasks_of_[task].state.store(2 * round, std::memory_order_release);
    round_.store(round, std::memory_order_release);
    return round;
  }

  bool take(uint64_t round, int task) {
    uint64_t open = 2 * round;
    return tasks_of_[task].state.compare_exchange_strong(open, open + 1, std::memory_order_acquire);
  }

  // A stretch of steps by the calling thread: its own task, and those that nobody has taken when it has done the
  // first step of its own.
  void lead(uint64_t round, int tasks) {
    std::array<bool, MOST_THREADS> mine;
    for (int task = 0; task < tasks; ++task) {
      mine[static_cast<size_t>(task)] = take(round, task);
      if (!mine[static_cast<size_t>(task)]) continue;
      do_before(first_, task);
      do_step(first_, task);
    }
    for (int64_t step = first_ + 1; step < end_; ++step) {
      for (int task = 0; task < tasks; ++task) {
        if (mine[static_cast<size_t>(task)]) do_before(step, task);
      }
      await(step, tasks);
      for (int task = 0; task < tasks; ++task) {
        if (mine[static_cast<size_t>(task)]) do_step(step, task);
      }
    }
    await(end_, tasks);
  }

  // A stretch of steps by a helper: its own task.
  void follow(uint64_t round, int member) {
    const int tasks = tasks_.load(std::memory_order_relaxed);
    if (member >= tasks || !take(round, member)) return;
    const int64_t first = first_, end = end_;  // which are another stretch's as soon as the last step is done
    for (int64_t step = first; step < end; ++step) {
      do_before(step, member);
      if (step > first) await(step, tasks);
      do_step(step, member);
    }
  }

  void do_before(int64_t step, int task) { step_work_.before(step_work_.of, step, task); }

  void do_step(int64_t step, int task) {
    step_work_.run(step_work_.of, step, task);
    tasks_of_[task].step.store(step + 1, std::memory_order_release);
  }

  // Wait until all tasks come to this step.
  void await(int64_t step, int tasks) {
    for (int task = 0; task < tasks; ++task) {
      for (Patience patience; tasks_of_[task].step.load(std::memory_order_acquire) < step;) patience.wait();
    }
  }

  // Do what is open of a round, beginning with this member's own share.
  void serve(uint64_t round, int member) {
    const int tasks = tasks_.load(std::memory_order_relaxed), size = size_.load(std::memory_order_relaxed);
    const int first = tasks * member / std::max(size, member + 1);
    for (int n = 0; n < tasks; ++n) {
      const int task = (first + n) % tasks;
      if (take(round, task)) {
        run_(work_, task);
        done_.fetch_add(1, std::memory_order_release);
      }
    }
  }

  // Return how many can work together, as many as wanted if the system allows.
  int hire(int wanted) {
    try {
      while (static_cast<int>(helpers_.size()) < wanted - 1) {
        const int number = static_cast<int>(helpers_.size()) + 1;
        helpers_.emplace_back([this, number] { help(number); });
      }
    } catch (const std::system_error&) {
    }
    return std::max(1, std::min(wanted, static_cast<int>(helpers_.size()) + 1));
  }

  void help(int number) {
    for (uint64_t seen = 0;;) {
      for (Patience patience; !in_call_.load();) {
        if (!patience.wait()) sleep();
      }
      for (Patience patience; in_call_.load(std::memory_order_relaxed);) {
        const uint64_t round = round_.load(std::memory_order_acquire);
        if (round == seen) {
          patience.wait();
        } else {
          seen = round;
          has_steps_.load(std::memory_order_relaxed) ? follow(round, number) : serve(round, number);
          patience = Patience();
        }
      }
    }
  }

  void sleep() {
    sleeping_.fetch_add(1);
    {
      std::unique_lock<std::mutex> lock(mutex_);
      called_.wait(lock, [this] { return in_call_.load(); });
    }
    sleeping_.fetch_sub(1);
  }

  const pid_t process_ = getpid();  // a child of fork has no helpers
  std::mutex busy_;                 // held during a call
  std::vector<std::thread> helpers_;
  Places places_;  // of the helpers

  std::mutex mutex_;
  std::condition_variable called_;
  std::atomic<int> sleeping_{0};
  std::atomic<bool> in_call_{false};

  // A round, in one line of the cache. What to run is read only by who has taken a task.
  alignas(64) std::atomic<uint64_t> round_{0};
  std::atomic<int> size_{1};
  std::atomic<int> tasks_{0};
  std::atomic<bool> has_steps_{false};
  Run run_ = nullptr;
  StepWork step_work_{};
  int64_t first_ = 0, end_ = 0;  // of a stretch
  const void* work_ = nullptr;
  alignas(64) std::atomic<int> done_{0};
  Task tasks_of_[MOST_TASKS];
};

Crew& crew() {
  static Crew* only = new Crew;  // never destroyed: its threads may outlive the exit handlers
  return *only;
}

}  // namespace

Team::Team(int wanted) : size_(crew().begin(wanted)) {}

Team::~Team() {
  if (size_ > 1) crew().end();
}

void Team::run(int tasks, Run run, const void* work) {
  if (size_ > 1 && tasks > 1) {
    crew().run(tasks, run, work);
  } else {
    for (int task = 0; task < tasks; ++task) run(work, task);
  }
}

void Team::run_steps(int64_t steps, int tasks, int64_t stretch, const StepWork& work) {
  if (size_ > 1 && tasks > 1) {
    crew().run_steps(steps, tasks, stretch, work);
  } else {
    for (int64_t step = 0; step < steps; ++step) {
      for (int task = 0; task < tasks; ++task) {
        work.before(work.of, step, task);
        work.run(work.of, step, task);
      }
    }
  }
}

}  // namespace jaxrnn
