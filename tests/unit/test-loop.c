/*
 * What loop/loop promises: an edge that the kernel told once is remembered, each ready source runs at most once a
 * turn, who has news before who ends before who had a turn, what was deinitialised is never called, and the order of
 * a turn: events, timers, sources, the dead, the hook.
 */
#include "aborts.h"
#include "unit.h"

#include "loop/loop.h"
#include <stdio.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <systemd/sd-event.h>

static struct loop *loop;

/* One end in the loop, the other the test's. */
struct end {
        struct source source;
        int peer_fd;
        unsigned n_calls;
        unsigned budget; /* bytes to read in a call; 0: until EAGAIN */
        unsigned n_bytes;
        struct end *victim; /* whom `spoil` harms */
};

static void end_read(struct source *source)
{
        struct end *end = container_of(source, struct end, source);
        unsigned n_left = end->budget;
        char byte;

        end->n_calls++;
        do {
                ssize_t n = recv(source->fd, &byte, 1, MSG_DONTWAIT);

                if (n < 0) {
                        ck_assert_int_eq(errno, EAGAIN);
                        source_clear(source, EPOLLIN);
                        return;
                }
                if (n == 0) {
                        source_clear(source, EPOLLIN | EPOLLRDHUP | EPOLLHUP);
                        return;
                }
                end->n_bytes++;
        } while (end->budget == 0 || --n_left > 0);
}

static void end_init(struct end *end, uint32_t wanted, source_fn ready)
{
        int fds[2];

        ck_assert_int_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
        *end = (struct end){ .peer_fd = fds[1] };
        ck_assert_int_eq(
                source_init(&end->source, loop, fds[0], EPOLLIN | EPOLLOUT | EPOLLRDHUP, wanted, ready), 0);
        ck_assert_int_eq(end->source.fd, fds[0]);
}

static void end_deinit(struct end *end)
{
        int fd = end->source.fd;

        source_deinit(&end->source, loop);
        ck_assert_int_eq(end->source.fd, -1);
        (void)fd_close(fd);
        (void)fd_close(end->peer_fd);
}

static void say(const struct end *end, size_t n)
{
        char bytes[64] = { 0 };

        ck_assert_uint_le(n, sizeof(bytes));
        ck_assert_int_eq(write(end->peer_fd, bytes, n), (ssize_t)n);
}

static void turn(void)
{
        ck_assert_int_eq(loop_turn(loop, 0), 0);
}

static void begin(void)
{
        ck_assert_int_eq(loop_new(&loop), 0);
        turn(); /* whatever sd-event has to tell at first */
}

static void finish(void)
{
        loop = loop_free(loop);
        ck_assert_ptr_null(loop);
}

/* ---- edges ---- */

/* A source that stops in the middle is called again, without any event from the kernel. */
START_TEST(test_loop_remembers_edges)
{
        struct end end;

        begin();
        end_init(&end, EPOLLIN, end_read);
        end.budget = 1;
        say(&end, 3);
        for (unsigned i = 1; i <= 3; i++) {
                turn();
                ck_assert_uint_eq(end.n_calls, i);
                ck_assert_uint_eq(end.n_bytes, i);
        }
        turn(); /* sees EAGAIN */
        ck_assert_uint_eq(end.n_calls, 4);
        turn();
        turn();
        ck_assert_uint_eq(end.n_calls, 4);
        say(&end, 1); /* a new edge */
        turn();
        ck_assert_uint_eq(end.n_bytes, 4);
        end_deinit(&end);
        finish();
}
END_TEST

START_TEST(test_loop_is_fair)
{
        struct end flood, quiet;

        begin();
        end_init(&flood, EPOLLIN, end_read);
        end_init(&quiet, EPOLLIN, end_read);
        flood.budget = 1;
        say(&flood, 64);
        turn();
        say(&quiet, 1);
        for (unsigned i = 2; i < 20; i++) {
                turn();
                ck_assert_uint_eq(flood.n_calls, i); /* once a turn */
                ck_assert_uint_eq(quiet.n_bytes, 1); /* in the turn in which it came */
        }
        ck_assert_uint_eq(quiet.n_calls, 1);
        end_deinit(&flood);
        end_deinit(&quiet);
        finish();
}
END_TEST

static void end_read_slowly(struct source *source)
{
        uint64_t until_usec = clock_usec(CLOCK_MONOTONIC) + 2 * USEC_PER_MSEC;

        while (clock_usec(CLOCK_MONOTONIC) < until_usec)
                ;
        end_read(source);
}

/* Those who are never done share a part of each turn, in rotation; who has news waits for one of them, not all. */
START_TEST(test_loop_serves_news_first)
{
        enum { N = 4 };
        struct end floods[N], quiet;

        begin();
        for (unsigned i = 0; i < N; i++) {
                end_init(&floods[i], EPOLLIN, end_read_slowly);
                floods[i].budget = 1;
                say(&floods[i], 64);
        }
        end_init(&quiet, EPOLLIN, end_read);
        turn(); /* they are news themselves */
        for (unsigned i = 1; i <= 5 * N; i++) {
                say(&quiet, 1);
                turn();
                ck_assert_uint_eq(quiet.n_bytes, i);
                for (unsigned j = 0; j < N; j++)
                        ck_assert_uint_eq(floods[j].n_calls, 1 + (i + N - 1 - j) / N);
        }
        for (unsigned i = 0; i < N; i++)
                end_deinit(&floods[i]);
        end_deinit(&quiet);
        finish();
}
END_TEST

/* What is not wanted is kept for later, and costs no call. */
static unsigned n_ended;
static struct end *ended[300];

/* As long as a turn has for all ends together. */
static void end_slowly(struct source *source)
{
        uint64_t until_usec = clock_usec(CLOCK_MONOTONIC) + USEC_PER_MSEC;

        while (clock_usec(CLOCK_MONOTONIC) < until_usec)
                ;
        ended[n_ended++] = container_of(source, struct end, source);
        source_clear(source, EPOLLIN | EPOLLRDHUP | EPOLLHUP);
}

static void end_after_none(struct source *source)
{
        ck_assert_uint_eq(n_ended, 0);
        end_read(source);
}

/* Who says something is served before hundreds that end, though the kernel tells of it last; those take turns. */
START_TEST(test_loop_ends_wait)
{
        static struct end ends[ARRAY_SIZE(ended)];
        struct end alive;
        unsigned n_turns = 1, n_before;

        begin();
        n_ended = 0;
        for (size_t i = 0; i < ARRAY_SIZE(ends); i++) {
                end_init(&ends[i], EPOLLIN, end_slowly);
                turn(); /* that it is writable */
        }
        end_init(&alive, EPOLLIN, end_after_none);
        turn();
        for (size_t i = 0; i < ARRAY_SIZE(ends); i++)
                ends[i].peer_fd = fd_close(ends[i].peer_fd);
        say(&alive, 1);
        turn();
        ck_assert_uint_eq(alive.n_calls, 1);
        ck_assert_uint_gt(n_ended, 0);
        for (; n_ended < ARRAY_SIZE(ends); n_turns++) {
                n_before = n_ended;
                turn();
                ck_assert_uint_gt(n_ended, n_before);
        }
        ck_assert_uint_gt(n_turns, 10);
        for (size_t i = 0; i < ARRAY_SIZE(ends); i++)
                ck_assert_ptr_eq(ended[i], &ends[i]);
        for (size_t i = 0; i < ARRAY_SIZE(ends); i++)
                end_deinit(&ends[i]);
        end_deinit(&alive);
        finish();
}
END_TEST

START_TEST(test_loop_want)
{
        struct end end;

        begin();
        end_init(&end, 0, end_read);
        say(&end, 1);
        turn();
        ck_assert_uint_eq(end.n_calls, 0);
        ck_assert_uint_eq(end.source.pending & (EPOLLIN | EPOLLOUT), EPOLLIN | EPOLLOUT);

        source_want(&end.source, loop, EPOLLIN);
        turn();
        ck_assert_uint_eq(end.n_calls, 1);
        ck_assert_uint_eq(end.n_bytes, 1);

        source_want(&end.source, loop, EPOLLRDHUP);
        say(&end, 1);
        turn();
        ck_assert_uint_eq(end.n_calls, 1);
        ck_assert_int_eq(shutdown(end.peer_fd, SHUT_WR), 0);
        turn();
        ck_assert_uint_eq(end.n_calls, 2);
        end_deinit(&end);
        source_want(&end.source, loop, EPOLLIN); /* harmless */
        turn();
        finish();
}
END_TEST

/* The kernel always tells ERR and HUP; who does not want them is not woken. */
START_TEST(test_loop_hangup_wakes_only_who_wants_it)
{
        struct end end;

        begin();
        end_init(&end, 0, end_read);
        end.peer_fd = fd_close(end.peer_fd);
        turn();
        ck_assert_uint_eq(end.n_calls, 0);
        ck_assert_uint_eq(end.source.pending & (EPOLLHUP | EPOLLRDHUP), EPOLLHUP | EPOLLRDHUP);
        source_want(&end.source, loop, EPOLLHUP);
        turn();
        ck_assert_uint_eq(end.n_calls, 1);
        end_deinit(&end);
        finish();
}
END_TEST

/* More sources than the kernel tells in one call. */
/* What is not registered any more does not even wake; what holds at that moment is told. */
START_TEST(test_loop_register)
{
        struct end end;

        ck_assert_int_eq(loop_new(&loop), 0);
        end_init(&end, EPOLLRDHUP | EPOLLHUP, end_read);
        ck_assert_int_eq(loop_turn(loop, 0), 0);
        ck_assert_int_eq(source_register(&end.source, loop, EPOLLRDHUP), 0);
        end.source.pending = 0;
        say(&end, 3);
        ck_assert_int_eq(loop_turn(loop, 0), 0);
        ck_assert_uint_eq(end.source.pending, 0);
        ck_assert_uint_eq(end.n_calls, 0);
        ck_assert_int_eq(source_register(&end.source, loop, EPOLLIN), 0);
        ck_assert_int_eq(loop_turn(loop, 0), 0);
        ck_assert_uint_eq(end.source.pending, EPOLLIN);
        ck_assert_int_eq(source_register(&end.source, loop, EPOLLRDHUP), 0);
        ck_assert_int_eq(shutdown(end.peer_fd, SHUT_WR), 0);
        ck_assert_int_eq(loop_turn(loop, 0), 0);
        ck_assert_uint_eq(end.n_calls, 1);
        end_deinit(&end);
        loop_free(loop);
}
END_TEST

START_TEST(test_loop_many)
{
        enum { N_ENDS = 400 };
        static struct end ends[N_ENDS];
        unsigned n_calls = 0;

        begin();
        for (size_t i = 0; i < N_ENDS; i++) {
                end_init(&ends[i], EPOLLIN, end_read);
                say(&ends[i], 1);
        }
        turn();
        turn();
        for (size_t i = 0; i < N_ENDS; i++)
                n_calls += ends[i].n_calls;
        ck_assert_uint_eq(n_calls, N_ENDS);
        for (size_t i = 0; i < N_ENDS; i++)
                end_deinit(&ends[i]);
        finish();
}
END_TEST

/* ---- what callbacks do to each other ---- */

/* Both ends are ready and each one's callback does this to the other: whoever runs first wins. */
static struct end *begin_duel(source_fn spoil)
{
        static struct end ends[2];

        begin();
        for (size_t i = 0; i < 2; i++) {
                end_init(&ends[i], EPOLLIN, spoil);
                ends[i].victim = &ends[1 - i];
        }
        for (size_t i = 0; i < 2; i++)
                say(&ends[i], 1);
        turn();
        return ends;
}

static void spoil_deinit(struct source *source)
{
        struct end *end = container_of(source, struct end, source);

        end->n_calls++;
        end_deinit(end->victim);
        source_clear(source, EPOLLIN);
}

START_TEST(test_loop_deinit_another)
{
        struct end *ends = begin_duel(spoil_deinit);

        ck_assert_uint_eq(ends[0].n_calls + ends[1].n_calls, 1);
        for (size_t i = 0; i < 2; i++)
                if (ends[i].source.fd >= 0)
                        end_deinit(&ends[i]);
        finish();
}
END_TEST

static void spoil_pause(struct source *source)
{
        struct end *end = container_of(source, struct end, source);

        end->n_calls++;
        source_want(&end->victim->source, loop, 0);
        source_clear(source, EPOLLIN);
}

/* As a listener does that pauses: its other sockets may be ready in this very turn. */
START_TEST(test_loop_pause_another)
{
        struct end *ends = begin_duel(spoil_pause);
        struct end *paused = ends[0].n_calls > 0 ? &ends[1] : &ends[0];

        ck_assert_uint_eq(ends[0].n_calls + ends[1].n_calls, 1);
        turn();
        ck_assert_uint_eq(paused->n_calls, 0);
        source_want(&paused->source, loop, EPOLLIN); /* it was not forgotten */
        turn();
        ck_assert_uint_eq(paused->n_calls, 1);
        end_deinit(&ends[0]);
        end_deinit(&ends[1]);
        finish();
}
END_TEST

static void spoil_replace(struct source *source)
{
        struct end *end = container_of(source, struct end, source), *victim = end->victim;
        int number = victim->source.fd, fds[2];

        end->n_calls++;
        end_deinit(victim);
        ck_assert_int_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
        ck_assert(fds[0] == number || fds[1] == number); /* the lowest free one */
        if (fds[1] == number)
                fds[1] = fds[0];
        *victim = (struct end){ .peer_fd = fds[1] };
        ck_assert_int_eq(source_init(&victim->source, loop, number, EPOLLIN, EPOLLIN, end_read), 0);
        source_clear(source, EPOLLIN);
}

/* The event of a descriptor that is gone does not reach the next one of the same number, at the same address. */
START_TEST(test_loop_no_stale_event)
{
        struct end *ends = begin_duel(spoil_replace);

        turn();
        turn();
        ck_assert_uint_eq(ends[0].n_calls + ends[1].n_calls, 1);
        for (size_t i = 0; i < 2; i++)
                end_deinit(&ends[i]);
        finish();
}
END_TEST

static void end_free(struct source *source)
{
        struct end *end = container_of(source, struct end, source);

        end_deinit(end);
        free(end);
}

START_TEST(test_loop_free_oneself)
{
        struct end *end = malloc(sizeof(*end));

        begin();
        end_init(end, EPOLLIN, end_free);
        say(end, 1);
        turn();
        turn();
        finish();
}
END_TEST

static void end_vanish(struct source *source)
{
        struct end *end = container_of(source, struct end, source);

        end->n_calls++;
        end_deinit(end);
        source->pending = EPOLLIN; /* the memory is another one's now */
}

START_TEST(test_loop_deinit_oneself)
{
        struct end end;

        begin();
        end_init(&end, EPOLLIN, end_vanish);
        say(&end, 1);
        turn();
        turn();
        ck_assert_uint_eq(end.n_calls, 1);
        finish();
}
END_TEST

static void end_begin_anew(struct source *source)
{
        struct end *end = container_of(source, struct end, source);
        int fd = source->fd;
        unsigned n_calls = end->n_calls + 1;

        source_deinit(source, loop);
        ck_assert_int_eq(source_init(source, loop, fd, EPOLLIN, EPOLLIN, end_read), 0);
        end->n_calls = n_calls;
}

/* Registered anew in its own callback: the kernel tells the present state once more. */
START_TEST(test_loop_deinit_and_init_oneself)
{
        struct end end;

        begin();
        end_init(&end, EPOLLIN, end_begin_anew);
        say(&end, 1);
        turn();
        ck_assert_uint_eq(end.n_calls, 1);
        turn();
        ck_assert_uint_eq(end.n_calls, 2);
        ck_assert_uint_eq(end.n_bytes, 1);
        end_deinit(&end);
        finish();
}
END_TEST

/* ---- the order of a turn ---- */

static char order[256];

static void note(const char *what)
{
        (void)strncat(order, what, sizeof(order) - strlen(order) - 1);
}

static struct end *timer_victim;

static void timer_note(struct timer *timer _unused_)
{
        note("timer ");
        if (timer_victim)
                end_deinit(timer_victim);
}

static void bury_note(struct grave *grave)
{
        note("bury ");
        free(grave);
}

static struct grave *grave_new(void)
{
        struct grave *grave = calloc(1, sizeof(*grave));

        ck_assert_ptr_nonnull(grave);
        return grave;
}

static void bury_and_dig(struct grave *grave)
{
        note("bury-one ");
        loop_bury(loop, grave, bury_note);
}

static void ready_note(struct source *source)
{
        note("source ");
        source_clear(source, EPOLLIN);
        loop_bury(loop, grave_new(), bury_note);
        loop_bury(loop, grave_new(), bury_and_dig);
}

static uint64_t hook_usec = USEC_INFINITY;

static uint64_t hook_note(void *userdata)
{
        ck_assert_str_eq(userdata, "mine");
        note("hook ");
        return hook_usec;
}

START_TEST(test_loop_order)
{
        struct timer timer;
        struct end end;
        char mine[] = "mine";

        begin();
        end_init(&end, EPOLLIN, ready_note);
        turn();
        loop_set_turn_hook(loop, hook_note, mine);
        ck_assert_int_eq(loop_turn(loop, USEC_INFINITY), 0); /* the first does not wait */
        ck_assert_str_eq(order, "hook ");
        timer_init(&timer, timer_note);
        timer_arm(loop_wheel(loop), &timer, 0);
        say(&end, 1);
        turn();
        ck_assert_str_eq(order, "hook timer source bury-one bury bury hook ");
        hook_usec = 0;
        turn();
        hook_usec = clock_usec(CLOCK_MONOTONIC) + USEC_PER_MSEC;
        ck_assert_int_eq(loop_turn(loop, USEC_INFINITY), 0); /* nor does this one */
        ck_assert_str_eq(order, "hook timer source bury-one bury bury hook hook hook ");
        hook_usec = USEC_INFINITY;
        ck_assert_int_eq(loop_turn(loop, USEC_INFINITY), 0); /* this one does, but not for ever */
        ck_assert_str_eq(order, "hook timer source bury-one bury bury hook hook hook hook ");
        end_deinit(&end);
        finish();
}
END_TEST

/* A timer takes away a source whose event was collected in this turn. */
START_TEST(test_loop_timer_deinits_source)
{
        struct timer timer;
        struct end end;

        begin();
        end_init(&end, EPOLLIN, ready_note);
        turn();
        timer_init(&timer, timer_note);
        timer_arm(loop_wheel(loop), &timer, 0);
        timer_victim = &end;
        say(&end, 1);
        turn();
        ck_assert_str_eq(order, "timer ");
        finish();
}
END_TEST

/* What is buried outside of any turn is buried by loop_free(). */
START_TEST(test_loop_free_buries)
{
        begin();
        loop_bury(loop, grave_new(), bury_note);
        finish();
        ck_assert_str_eq(order, "bury ");
        ck_assert_ptr_null(loop_free(NULL));
}
END_TEST

/* ---- time ---- */

static unsigned n_fired;

static void timer_count(struct timer *timer _unused_)
{
        n_fired++;
}

START_TEST(test_loop_sleeps_until_the_deadline)
{
        uint64_t deadline_usec;
        unsigned n_turns = 0;
        struct timer timer;

        begin();
        timer_init(&timer, timer_count);
        deadline_usec = loop_now(loop) + 20 * USEC_PER_MSEC;
        timer_arm(loop_wheel(loop), &timer, deadline_usec);
        for (; n_fired == 0; n_turns++) {
                ck_assert_int_eq(loop_turn(loop, USEC_INFINITY), 0);
                ck_assert(n_fired == 0 || loop_now(loop) >= deadline_usec);
        }
        ck_assert_uint_le(n_turns, 2); /* it slept, and did not ask again and again */
        ck_assert_uint_le(loop_now(loop), clock_usec(CLOCK_MONOTONIC));
        finish();
}
END_TEST

START_TEST(test_loop_waits_no_longer_than_told)
{
        uint64_t before_usec;
        struct timer timer;

        begin();
        timer_init(&timer, timer_count);
        timer_arm(loop_wheel(loop), &timer, loop_now(loop) + 1000 * USEC_PER_SEC);
        before_usec = clock_usec(CLOCK_MONOTONIC);
        ck_assert_int_eq(loop_turn(loop, 3 * USEC_PER_MSEC), 0);
        ck_assert_uint_ge(loop_now(loop), before_usec + 3 * USEC_PER_MSEC);
        ck_assert_uint_lt(loop_now(loop), before_usec + 900 * USEC_PER_SEC);
        ck_assert_uint_eq(n_fired, 0);
        timer_disarm(&timer);
        finish();
}
END_TEST

static void ignore_signal(int number _unused_)
{
}

START_TEST(test_loop_interrupted)
{
        struct sigaction action = { .sa_handler = ignore_signal };
        struct itimerval interval = { .it_value.tv_usec = 5000, .it_interval.tv_usec = 5000 };

        begin();
        ck_assert_int_eq(sigaction(SIGALRM, &action, NULL), 0);
        ck_assert_int_eq(setitimer(ITIMER_REAL, &interval, NULL), 0);
        ck_assert_int_eq(loop_turn(loop, USEC_INFINITY), 0); /* nothing else could end it */
        ck_assert_int_eq(loop_turn(loop, USEC_INFINITY), 0);
        interval = (struct itimerval){ 0 };
        ck_assert_int_eq(setitimer(ITIMER_REAL, &interval, NULL), 0);
        finish();
}
END_TEST

static void timer_exit(struct timer *timer _unused_)
{
        loop_exit(loop, 42);
        loop_exit(loop, 43); /* the first one counts */
}

START_TEST(test_loop_run_and_exit)
{
        struct timer timer;

        begin();
        timer_init(&timer, timer_exit);
        timer_arm(loop_wheel(loop), &timer, loop_now(loop));
        ck_assert_int_eq(loop_run(loop), 42);
        ck_assert_int_eq(loop_run(loop), 42);
        ck_assert_int_eq(loop_turn(loop, USEC_INFINITY), 0); /* does not wait any more */
        finish();
}
END_TEST

/* ---- sd-event inside ---- */

static unsigned n_signals, n_exits, n_writable;

static int signal_came(sd_event_source *source _unused_, const struct signalfd_siginfo *info,
                       void *userdata _unused_)
{
        ck_assert_uint_eq(info->ssi_signo, SIGUSR1);
        n_signals++;
        return 0;
}

static int child_exited(sd_event_source *source _unused_, const siginfo_t *info, void *userdata _unused_)
{
        ck_assert_int_eq(info->si_code, CLD_EXITED);
        ck_assert_int_eq(info->si_status, 3);
        n_exits++;
        return 0;
}

static int io_came(sd_event_source *source, int fd _unused_, uint32_t events _unused_,
                   void *userdata _unused_)
{
        n_writable++;
        return sd_event_source_set_enabled(source, SD_EVENT_OFF);
}

START_TEST(test_loop_sd_event)
{
        sd_event_source *on_signal, *on_child, *on_io;
        sigset_t mask;
        pid_t pid;
        int fd;

        (void)sigemptyset(&mask);
        (void)sigaddset(&mask, SIGUSR1);
        (void)sigaddset(&mask, SIGCHLD);
        ck_assert_int_eq(sigprocmask(SIG_BLOCK, &mask, NULL), 0);
        begin();
        ck_assert_int_ge(sd_event_add_signal(loop_event(loop), &on_signal, SIGUSR1, signal_came, NULL), 0);
        for (unsigned i = 1; i <= 3; i++) {
                (void)raise(SIGUSR1);
                turn();
                ck_assert_uint_eq(n_signals, i);
                turn();
                ck_assert_uint_eq(n_signals, i);
        }

        pid = fork();
        if (pid == 0)
                _exit(3);
        /* Added while sd-event is armed. */
        ck_assert_int_ge(sd_event_add_child(loop_event(loop), &on_child, pid, WEXITED, child_exited, NULL),
                         0);
        while (n_exits == 0)
                ck_assert_int_eq(loop_turn(loop, USEC_INFINITY), 0);
        ck_assert_int_eq(waitpid(pid, NULL, WNOHANG), -1); /* reaped */

        fd = eventfd(0, EFD_CLOEXEC);
        ck_assert_int_ge(sd_event_add_io(loop_event(loop), &on_io, fd, EPOLLOUT, io_came, NULL), 0);
        turn();
        ck_assert_uint_eq(n_writable, 1);
        /* A burst in one turn: all of it is told. */
        (void)raise(SIGUSR1);
        ck_assert_int_ge(sd_event_source_set_enabled(on_io, SD_EVENT_ON), 0);
        turn();
        ck_assert_uint_eq(n_signals, 4);
        ck_assert_uint_eq(n_writable, 2);

        sd_event_source_unref(on_signal);
        sd_event_source_unref(on_child);
        sd_event_source_unref(on_io);
        (void)close(fd);
        finish();
}
END_TEST

/* ---- faults ---- */

static unsigned n_flood;

static int flood_came(sd_event_source *source _unused_, int fd _unused_, uint32_t events _unused_,
                      void *userdata _unused_)
{
        ck_assert_uint_lt(++n_flood, 1000000); /* in one turn */
        return 0;
}

/* What sd-event has to tell has no end: others have their turn, and it goes on in the next. */
START_TEST(test_loop_sd_event_flood)
{
        _cleanup_close_ int fd = eventfd(1, EFD_CLOEXEC | EFD_NONBLOCK);
        sd_event_source *on_io;

        ck_assert_int_ge(fd, 0);
        begin();
        ck_assert_int_ge(sd_event_add_io(loop_event(loop), &on_io, fd, EPOLLIN, flood_came, NULL), 0);
        for (unsigned n_turns = 0; n_turns < 10; n_turns++) {
                n_flood = 0;
                ck_assert_int_eq(loop_turn(loop, USEC_INFINITY), 0);
                ck_assert_uint_ge(n_flood, 1);
        }
        sd_event_source_unref(on_io);
        finish();
}
END_TEST

START_TEST(test_loop_init_errors)
{
        struct source source;
        int fd = open("/dev/null", O_RDONLY | O_CLOEXEC), pipe_fds[2];
        struct end end;

        begin();
        ck_assert_int_eq(source_init(&source, loop, -1, EPOLLIN, EPOLLIN, end_read), -EBADF);
        ck_assert_int_eq(source_init(&source, loop, fd, EPOLLIN, EPOLLIN, end_read), -EPERM); /* no poll */
        ck_assert_int_eq(source.fd, -1);
        source_deinit(&source, loop); /* harmless */
        end_init(&end, EPOLLIN, end_read);
        ck_assert_int_eq(source_init(&source, loop, end.source.fd, EPOLLIN, EPOLLIN, end_read), -EEXIST);
        end_deinit(&end);
        source_deinit(&end.source, loop); /* once more */

        ck_assert_int_eq(pipe2(pipe_fds, O_CLOEXEC), 0);
        ck_assert_int_eq(source_init(&source, loop, pipe_fds[0], EPOLLIN, EPOLLIN, end_read), 0);
        (void)close(pipe_fds[0]); /* before its time; it is not told */
        source_deinit(&source, loop);
        (void)close(pipe_fds[1]);
        (void)close(fd);
        finish();
}
END_TEST

static void free_with_a_source(const void *argument _unused_)
{
        static struct end end;

        (void)loop_new(&loop);
        end_init(&end, EPOLLIN, end_read);
        (void)loop_free(loop);
}

static void free_with_a_timer(const void *argument _unused_)
{
        static struct timer timer;

        (void)loop_new(&loop);
        timer_init(&timer, timer_count);
        timer_arm(loop_wheel(loop), &timer, loop_now(loop) + USEC_PER_SEC);
        (void)loop_free(loop);
}

START_TEST(test_loop_free_asserts)
{
        ck_assert(aborts(free_with_a_source, NULL));
        ck_assert(aborts(free_with_a_timer, NULL));
}
END_TEST

UNIT_MAIN("loop", test_loop_remembers_edges, test_loop_is_fair, test_loop_serves_news_first,
          test_loop_ends_wait, test_loop_want, test_loop_hangup_wakes_only_who_wants_it, test_loop_register,
          test_loop_many, test_loop_deinit_another, test_loop_pause_another, test_loop_no_stale_event,
          test_loop_free_oneself, test_loop_deinit_oneself, test_loop_deinit_and_init_oneself,
          test_loop_order, test_loop_timer_deinits_source, test_loop_free_buries,
          test_loop_sleeps_until_the_deadline, test_loop_waits_no_longer_than_told, test_loop_interrupted,
          test_loop_run_and_exit, test_loop_sd_event, test_loop_sd_event_flood, test_loop_init_errors,
          test_loop_free_asserts)
