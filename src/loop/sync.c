/*
 * Syncing. Promises that the loop never stands still for a disk: fsync(2) may take as long as a disk is ill. It
 * relies on the kernel's AIO (io_submit(2) with IOCB_CMD_FSYNC, Linux 4.18), which does the fsync in a worker of
 * its own and tells of its end through an eventfd. Why not a thread: this daemon forks, and nothing in it is made
 * for two threads. Why not a process for each: it would cost a fork of all our memory, in the loop. Why not
 * io_uring: many systems forbid it.
 *
 * A request keeps its place in the kernel's queue until it is done, so those that do not fit wait here, in order.
 * Deliberately not here: any time limit, for nobody can call an fsync back; who waits has one.
 */
#include "loop/sync.h"
#include <linux/aio_abi.h>
#include <sys/eventfd.h>
#include <sys/syscall.h>

#define UNDER_WAY_MAX 256

struct sync_request {
        struct list link; /* in syncer->waiting, or in syncer->under_way */
        struct syncer *syncer;
        struct sync *sync; /* NULL: nobody waits for it */
        int fds[SYNC_FDS];
        unsigned n_under_way;
        int error; /* the first */
};

struct syncer {
        struct loop *loop;
        aio_context_t context;
        struct source source; /* of the eventfd */
        struct list waiting;
        struct list under_way;
        unsigned n_under_way; /* descriptors */
};

static void request_free(struct sync_request *request)
{
        list_unlink(&request->link);
        for (size_t i = 0; i < SYNC_FDS; i++)
                (void)fd_close(request->fds[i]);
        free(request);
}

static void request_note(struct sync_request *request, int error)
{
        if (error < 0 && request->error == 0)
                request->error = error;
}

/* The kernel takes a reference to the file: the descriptor is not needed any more. */
static void request_submit(struct sync_request *request)
{
        struct syncer *syncer = request->syncer;

        for (size_t i = 0; i < SYNC_FDS; i++) {
                struct iocb iocb = {
                        .aio_data = (uintptr_t)request,
                        .aio_lio_opcode = IOCB_CMD_FSYNC,
                        .aio_fildes = (uint32_t)request->fds[i],
                        .aio_flags = IOCB_FLAG_RESFD,
                        .aio_resfd = (uint32_t)syncer->source.fd,
                };
                struct iocb *iocbs[] = { &iocb };

                if (request->fds[i] < 0)
                        continue;
                if (syscall(SYS_io_submit, syncer->context, 1L, iocbs) == 1) {
                        request->n_under_way++;
                        syncer->n_under_way++;
                } else {
                        request_note(request, -errno);
                }
                request->fds[i] = fd_close(request->fds[i]);
        }
}

static void request_finish(struct sync_request *request)
{
        struct sync *sync = request->sync;
        int error = request->error;

        request_free(request);
        if (!sync)
                return;
        sync->request = NULL;
        sync->done(sync, error);
}

static void syncer_submit_waiting(struct syncer *syncer)
{
        struct list *node;

        while (syncer->n_under_way + SYNC_FDS <= UNDER_WAY_MAX &&
               (node = list_take_first(&syncer->waiting))) {
                struct sync_request *request = container_of(node, struct sync_request, link);

                list_append(&syncer->under_way, node);
                request_submit(request);
                if (request->n_under_way == 0)
                        request_finish(request);
        }
}

static void syncer_ready(struct source *source)
{
        struct syncer *syncer = container_of(source, struct syncer, source);
        struct timespec at_once = { 0 };
        struct io_event events[16];
        uint64_t count;
        long n;

        /* First the eventfd, then what it counted: what ends in between counts anew. */
        source_clear(source, EPOLLIN);
        if (read(source->fd, &count, sizeof(count)) < 0 && errno == EAGAIN)
                return;
        while ((n = syscall(SYS_io_getevents, syncer->context, 0L, (long)ARRAY_SIZE(events), events,
                            &at_once)) > 0)
                for (long i = 0; i < n; i++) {
                        struct sync_request *request = (void *)(uintptr_t)events[i].data;

                        syncer->n_under_way--;
                        request_note(request, (int)events[i].res);
                        if (--request->n_under_way == 0)
                                request_finish(request);
                }
        syncer_submit_waiting(syncer);
}

int syncer_new(struct syncer **ret_syncer, struct loop *loop)
{
        struct syncer *syncer = calloc(1, sizeof(*syncer));
        int r;

        if (!syncer)
                return -ENOMEM;
        syncer->loop = loop;
        list_init(&syncer->waiting);
        list_init(&syncer->under_way);
        _cleanup_close_ int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
        r = fd < 0 ? -errno : 0;
        /* EAGAIN: others have all that fs.aio-max-nr allows, which is not over in a moment. */
        if (r == 0 && syscall(SYS_io_setup, UNDER_WAY_MAX, &syncer->context) < 0)
                r = errno == EAGAIN ? -EBUSY : -errno;
        if (r == 0) {
                r = source_init(&syncer->source, loop, fd, EPOLLIN, EPOLLIN, syncer_ready);
                if (r < 0)
                        (void)syscall(SYS_io_destroy, syncer->context);
        }
        if (r < 0) {
                free(syncer);
                return r;
        }
        (void)TAKE_FD(fd);
        *ret_syncer = syncer;
        return 0;
}

static void free_all(struct list *requests)
{
        for (struct list *node; (node = list_take_first(requests));) {
                struct sync_request *request = container_of(node, struct sync_request, link);

                if (request->sync)
                        request->sync->request = NULL;
                request_free(request);
        }
}

struct syncer *syncer_free(struct syncer *syncer)
{
        if (!syncer)
                return NULL;

        int fd = syncer->source.fd;

        (void)syscall(SYS_io_destroy, syncer->context);
        free_all(&syncer->under_way);
        free_all(&syncer->waiting);
        source_deinit(&syncer->source, syncer->loop);
        (void)fd_close(fd);
        free(syncer);
        return NULL;
}

int sync_start(struct sync *sync, struct syncer *syncer, const int fds[static SYNC_FDS], sync_fn done)
{
        struct sync_request *request = calloc(1, sizeof(*request));

        assert(!sync || !sync->request);
        if (!request) {
                for (size_t i = 0; i < SYNC_FDS; i++)
                        (void)fd_close(fds[i]);
                return -ENOMEM;
        }
        *request = (struct sync_request){ .syncer = syncer, .sync = sync };
        memcpy(request->fds, fds, sizeof(request->fds));
        list_init(&request->link);

        if (syncer->n_under_way + SYNC_FDS > UNDER_WAY_MAX || !list_is_empty(&syncer->waiting)) {
                list_append(&syncer->waiting, &request->link);
        } else {
                list_append(&syncer->under_way, &request->link);
                request_submit(request);
                if (request->n_under_way == 0) {
                        int error = request->error;

                        request_free(request);
                        return error;
                }
        }
        if (sync)
                *sync = (struct sync){ .request = request, .done = done };
        return 0;
}

void sync_deinit(struct sync *sync)
{
        if (sync->request)
                sync->request->sync = NULL;
        sync->request = NULL;
}
