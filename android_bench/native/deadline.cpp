#include "deadline.h"

#include <cmath>
#include <csignal>
#include <utility>

#include <sys/time.h>
#include <unistd.h>

#include "exit_code.h"

namespace {

// What the handler needs, prepared beforehand: in a handler nothing may be allocated or formatted.
volatile int g_descriptor = -1;
const char *volatile g_words = nullptr;
volatile std::size_t g_length = 0;

void time_is_up(int) {
    for (std::size_t done = 0; done < g_length;) {
        const ssize_t written = write(g_descriptor, g_words + done, g_length - done);
        if (written <= 0) break;
        done += static_cast<std::size_t>(written);
    }
    _exit(kTimeLimit);
}

void set_timer(double seconds) {
    itimerval timer{};
    double whole = 0;
    timer.it_value.tv_usec = static_cast<suseconds_t>(std::modf(seconds, &whole) * 1e6);
    timer.it_value.tv_sec = static_cast<time_t>(whole);
    setitimer(ITIMER_REAL, &timer, nullptr);
}

}  // namespace

Deadline::Deadline(double seconds, int descriptor, std::string last_words) : last_words_(std::move(last_words)) {
    g_descriptor = descriptor;
    g_words = last_words_.data();
    g_length = last_words_.size();
    // Set again each time: the runtime may have put a handler of its own there, or blocked the signal.
    struct sigaction action{};
    action.sa_handler = time_is_up;
    sigaction(SIGALRM, &action, nullptr);
    sigset_t alarm;
    sigemptyset(&alarm);
    sigaddset(&alarm, SIGALRM);
    sigprocmask(SIG_UNBLOCK, &alarm, nullptr);
    set_timer(seconds);
}

Deadline::~Deadline() { set_timer(0); }
