/*
 * The loop. Relies on epoll(7): an edge-triggered descriptor reports its present state when it is added, and
 * each later change once. Deliberately not here: any thread, any priority that a source could choose, any clock
 * but CLOCK_MONOTONIC.
 *
 * Who was served and is not done yet stands behind whoever has news: so the end of a silent client is noticed at
 * once beside a hundred that send as much as is taken. Those have SHARE_USEC of every turn, in rotation, which
 * nobody can take from them.
 *
 * When very many end at once, the kernel has what else happens behind them all, and each costs a close(2). So
 * everything that it has is fetched, and the ends have ENDS_USEC of every turn: who comes meanwhile does not wait until
 * the last of them is buried.
 *
 * sd-event is embedded as one more descriptor: it is "armed" (sd_event_prepare(3)) whenever we wait. While it
 * is, sources for I/O, signals and children may be added to it, for they go straight to its own epoll; what has
 * a part in the arming, as time and defer sources and so a bus have, needs loop_event_changed().
 */
#include "loop/loop.h"
#include <systemd/sd-event.h>

#define N_EVENTS   256
#define N_FETCHES  64 /* a turn */
#define SHARE_USEC 100
#define EVENTS_MAX 64 /* of sd-event in a turn */
#define ENDS_USEC  (4 * USEC_PER_MSEC)
#define N_UNTIMED  16 /* so many ends for a look at the clock */

#define EVENTS_END (EPOLLRDHUP | EPOLLHUP | EPOLLERR)

struct loop {
        int epoll_fd;
        uint64_t now_usec;
        struct wheel wheel;
        struct list ready;      /* has news */
        struct list ends;       /* has news that nothing comes after */
        struct list again;      /* was served since, and is not done */
        struct source *current; /* whose `ready` runs; NULL once it was deinitialised in there */
        struct grave *graves;
        size_t n_sources;
        uint64_t (*hook)(void *userdata);
        void *hook_userdata;
        uint64_t hook_usec; /* a turn by then, with news or without */
        struct sd_event *event;
        struct source event_source;
        bool is_exiting;
        int status;
};

/* Puts sd-event back into its armed state; dispatches what is pending on the way. */
static int loop_arm_event(struct loop *loop)
{
        int r;

        while ((r = sd_event_prepare(loop->event)) > 0) {
                r = sd_event_dispatch(loop->event);
                if (r < 0)
                        return r;
        }
        return r;
}

static void loop_event_ready(struct source *source)
{
        struct loop *loop = container_of(source, struct loop, event_source);
        unsigned n_dispatched = 0;
        int n_pending, r = 0;

        source_clear(source, EPOLLIN);
        do {
                n_pending = sd_event_wait(loop->event, 0);
                if (n_pending > 0)
                        r = sd_event_dispatch(loop->event);
                if (r >= 0)
                        r = loop_arm_event(loop);
        } while (n_pending > 0 && r >= 0 && ++n_dispatched < EVENTS_MAX);
        if (n_dispatched == EVENTS_MAX) /* a bus may have thousands of signals */
                loop_event_changed(loop);
        if (n_pending < 0 || r < 0)
                loop_exit(loop, n_pending < 0 ? n_pending : r);
}

int loop_new(struct loop **ret_loop)
{
        _cleanup_(loop_freep) struct loop *loop = calloc(1, sizeof(*loop));
        int r;

        if (!loop)
                return -ENOMEM;
        list_init(&loop->ready);
        list_init(&loop->ends);
        list_init(&loop->again);
        list_init(&loop->event_source.ready_link);
        loop->event_source.fd = -1;
        loop->now_usec = clock_usec(CLOCK_MONOTONIC);
        loop->hook_usec = USEC_INFINITY;
        wheel_init(&loop->wheel, loop->now_usec);
        loop->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
        if (loop->epoll_fd < 0)
                return -errno;
        r = sd_event_new(&loop->event);
        if (r < 0)
                return r;
        r = source_init(&loop->event_source, loop, sd_event_get_fd(loop->event), EPOLLIN, EPOLLIN,
                        loop_event_ready);
        if (r < 0)
                return r;
        r = loop_arm_event(loop);
        if (r < 0)
                return r;
        *ret_loop = TAKE_PTR(loop);
        return 0;
}

static void loop_bury_dead(struct loop *loop)
{
        while (loop->graves) {
                struct grave *grave = loop->graves;

                loop->graves = grave->next;
                grave->bury(grave);
        }
}

struct loop *loop_free(struct loop *loop)
{
        if (!loop)
                return NULL;
        loop_bury_dead(loop);
        source_deinit(&loop->event_source, loop);
        sd_event_unref(loop->event);
        assert(loop->n_sources == 0);
        wheel_deinit(&loop->wheel);
        (void)fd_close(loop->epoll_fd);
        free(loop);
        return NULL;
}

uint64_t loop_now(const struct loop *loop)
{
        return loop->now_usec;
}

void loop_update_now(struct loop *loop)
{
        loop->now_usec = clock_usec(CLOCK_MONOTONIC);
}

struct wheel *loop_wheel(struct loop *loop)
{
        return &loop->wheel;
}

struct sd_event *loop_event(struct loop *loop)
{
        return loop->event;
}

void loop_set_turn_hook(struct loop *loop, uint64_t (*hook)(void *userdata), void *userdata)
{
        loop->hook = hook;
        loop->hook_userdata = userdata;
        loop->hook_usec = 0; /* for what was done before the loop runs */
}

static bool source_is_ready(const struct source *source)
{
        return source->pending & source->wanted;
}

static void make_ready(struct list *list, struct source *source)
{
        if (source_is_ready(source) && !list_is_linked(&source->ready_link))
                list_append(list, &source->ready_link);
}

void loop_event_changed(struct loop *loop)
{
        loop->event_source.pending |= EPOLLIN;
        make_ready(&loop->ready, &loop->event_source);
}

static int timeout_msec(struct loop *loop, uint64_t timeout_usec)
{
        if (!list_is_empty(&loop->ready) || !list_is_empty(&loop->ends) || !list_is_empty(&loop->again) ||
            loop->graves || loop->is_exiting || loop->hook_usec == 0)
                return 0;

        uint64_t next_usec = MIN(wheel_next(&loop->wheel), loop->hook_usec);

        if (next_usec == USEC_INFINITY && timeout_usec == USEC_INFINITY)
                return -1;

        uint64_t now_usec = clock_usec(CLOCK_MONOTONIC);

        next_usec = MIN(next_usec, deadline_after(now_usec, timeout_usec));
        if (next_usec <= now_usec)
                return 0;
        return (int)MIN((next_usec - now_usec + USEC_PER_MSEC - 1) / USEC_PER_MSEC, (uint64_t)INT32_MAX);
}

static void source_serve(struct source *source, struct loop *loop)
{
        if (!source_is_ready(source)) /* a callback before it took back what it wanted or saw */
                return;
        loop->current = source;
        source->ready(source);
        if (loop->current)
                make_ready(&loop->again, source);
        loop->current = NULL;
}

/*
 * Serves those of `waiting`, for so long; who had no turn stays in it. The clock is read after every `n_untimed`; not at
 * all where only one waits, as mostly.
 */
static void serve_for(struct loop *loop, struct list *waiting, uint64_t span_usec, unsigned n_untimed)
{
        bool is_timed = waiting->next != waiting->prev;
        uint64_t end_usec = is_timed ? clock_usec(CLOCK_MONOTONIC) + span_usec : 0;
        unsigned n_served = 0;

        for (struct list *node; (node = list_take_first(waiting));) {
                source_serve(container_of(node, struct source, ready_link), loop);
                if (is_timed && ++n_served % n_untimed == 0 && clock_usec(CLOCK_MONOTONIC) >= end_usec)
                        break;
        }
}

/* Those who had no turn go before those who came to the list since. */
static void put_back(struct list *list, struct list *waiting)
{
        list_splice(waiting, list);
        list_splice(list, waiting);
}

/* Each source at most once, and some of those who wait. */
static void loop_serve(struct loop *loop)
{
        struct list fresh = LIST_INIT(fresh), ends = LIST_INIT(ends), waiting = LIST_INIT(waiting);

        /* What becomes ready, or stays it, while these run waits for the next turn. */
        list_splice(&fresh, &loop->ready);
        list_splice(&ends, &loop->ends);
        list_splice(&waiting, &loop->again);
        for (struct list *node; (node = list_take_first(&fresh));)
                source_serve(container_of(node, struct source, ready_link), loop);
        serve_for(loop, &ends, ENDS_USEC, N_UNTIMED);
        put_back(&loop->ends, &ends);
        serve_for(loop, &waiting, SHARE_USEC, 1);
        put_back(&loop->again, &waiting);
}

/* Everything that the kernel has to tell, but what fits in no turn. */
static int loop_fetch(struct loop *loop, int wait_msec)
{
        struct epoll_event events[N_EVENTS];
        int n_events = N_EVENTS;

        for (unsigned i = 0; i < N_FETCHES && n_events == N_EVENTS; i++) {
                n_events = epoll_wait(loop->epoll_fd, events, N_EVENTS, i == 0 ? wait_msec : 0);
                for (int e = 0; e < n_events; e++) {
                        struct source *source = events[e].data.ptr;

                        source->pending |= (uint16_t)events[e].events;
                        make_ready(events[e].events & EVENTS_END ? &loop->ends : &loop->ready, source);
                }
        }
        return n_events < 0 && errno != EINTR ? -errno : 0;
}

int loop_turn(struct loop *loop, uint64_t timeout_usec)
{
        int r = loop_fetch(loop, timeout_msec(loop, timeout_usec));

        if (r < 0)
                return r;
        loop->now_usec = clock_usec(CLOCK_MONOTONIC);
        wheel_run(&loop->wheel, loop->now_usec);

        loop_serve(loop);
        loop_bury_dead(loop);
        loop->hook_usec = loop->hook ? loop->hook(loop->hook_userdata) : USEC_INFINITY;
        return 0;
}

int loop_run(struct loop *loop)
{
        while (!loop->is_exiting) {
                int r = loop_turn(loop, USEC_INFINITY);

                if (r < 0)
                        return r;
        }
        return loop->status;
}

void loop_exit(struct loop *loop, int status)
{
        if (loop->is_exiting)
                return;
        loop->is_exiting = true;
        loop->status = status;
}

void loop_bury(struct loop *loop, struct grave *grave, void (*bury)(struct grave *grave))
{
        grave->bury = bury;
        grave->next = loop->graves;
        loop->graves = grave;
}

int source_init(struct source *source, struct loop *loop, int fd, uint32_t events, uint32_t wanted,
                source_fn ready)
{
        struct epoll_event event = { .events = events | EPOLLET, .data.ptr = source };

        *source = (struct source){ .ready = ready, .fd = -1, .wanted = (uint16_t)wanted };
        list_init(&source->ready_link);
        if (epoll_ctl(loop->epoll_fd, EPOLL_CTL_ADD, fd, &event) < 0)
                return -errno;
        source->fd = fd;
        loop->n_sources++;
        return 0;
}

void source_deinit(struct source *source, struct loop *loop)
{
        if (source->fd < 0)
                return;
        (void)epoll_ctl(loop->epoll_fd, EPOLL_CTL_DEL, source->fd, NULL);
        list_unlink(&source->ready_link);
        source->fd = -1;
        source->pending = 0;
        if (loop->current == source)
                loop->current = NULL;
        loop->n_sources--;
}

int source_register(struct source *source, struct loop *loop, uint32_t events)
{
        struct epoll_event event = { .events = events | EPOLLET, .data.ptr = source };

        assert(source->fd >= 0);
        return epoll_ctl(loop->epoll_fd, EPOLL_CTL_MOD, source->fd, &event) < 0 ? -errno : 0;
}

void source_want(struct source *source, struct loop *loop, uint32_t wanted)
{
        source->wanted = (uint16_t)wanted;
        if (source->fd >= 0)
                make_ready(&loop->ready, source);
}
