#include "team.h"

#include <unistd.h>

#include <algorithm>
#include <condition_variable>
#include <mutex>
#include <system_error>
#include <thread>
#include <vector>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace jaxrnn {
namespace {

// Long enough for a step of another member, short enough to leave the processor to others where one was stopped.
constexpr int SPINS = 4000;

inline void relax() {
#if defined(__x86_64__)
  _mm_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

template <typename Condition>
void spin_until(Condition condition) {
  for (int spins = 0; !condition(); ++spins) {
    if (spins < SPINS) {
      relax();
    } else {
      std::this_thread::yield();
    }
  }
}

class Crew {
 public:
  void run(int wanted, Run run, void* work) {
    std::unique_lock<std::mutex> mine(busy_, std::try_to_lock);
    const int members = mine.owns_lock() && getpid() == process_ ? hire(std::min(wanted, MOST_THREADS)) : 1;
    if (members == 1) {
      run(work, 0, 1);
      return;
    }
    {
      std::lock_guard<std::mutex> lock(mutex_);
      run_ = run;
      work_ = work;
      members_ = members;
      working_.store(members - 1, std::memory_order_relaxed);
      ++call_;
    }
    called_.notify_all();
    run(work, 0, members);
    spin_until([this] { return working_.load(std::memory_order_acquire) == 0; });
  }

 private:
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
      Run run;
      void* work;
      int members;
      {
        std::unique_lock<std::mutex> lock(mutex_);
        called_.wait(lock, [&] { return call_ != seen; });
        seen = call_;
        run = run_;
        work = work_;
        members = members_;
      }
      if (number < members) {
        run(work, number, members);
        working_.fetch_sub(1, std::memory_order_release);
      }
    }
  }

  const pid_t process_ = getpid();  // a child of fork has no helpers
  std::mutex busy_;                 // held during a call
  std::mutex mutex_;
  std::condition_variable called_;
  uint64_t call_ = 0;
  Run run_ = nullptr;
  void* work_ = nullptr;
  int members_ = 0;
  std::atomic<int> working_{0};
  std::vector<std::thread> helpers_;
};

}  // namespace

void Barrier::wait(int members) {
  if (members == 1) return;
  const unsigned before = passed_.load(std::memory_order_relaxed);
  if (arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 == members) {
    arrived_.store(0, std::memory_order_relaxed);
    passed_.store(before + 1, std::memory_order_release);
  } else {
    spin_until([&] { return passed_.load(std::memory_order_acquire) != before; });
  }
}

void run_together(int wanted, Run run, void* work) {
  static Crew* crew = new Crew;  // never destroyed: its threads may outlive the exit handlers
  crew->run(wanted, run, work);
}

}  // namespace jaxrnn
