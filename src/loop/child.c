/*
 * Children. Starting one costs the same however large we are and however many connections we hold: until execve the
 * child shares our memory and our descriptors (clone(2)), and we stand still. It makes system calls only, with all
 * signals blocked. A child that changes its user has a memory of its own: as long as it shared ours, the kernel would
 * take us for a program that changed its user, too, and forbid us core dumps (PR_SET_DUMPABLE(2const)).
 *
 * Of the descriptors it takes the lowest few along, close_range(2) with CLOSE_RANGE_UNSHARE copies no more: fork(2)
 * and vfork(2) copy all, only to close them again. So what is to be its 0, 1 and 2 goes through a *passage* of low
 * numbers that are kept for that.
 *
 * What goes wrong before the program runs is left in memory that both see. Whoever dies between the clone and the
 * program: no program runs that was not announced, for a child whose parent is gone ends, too.
 * Deliberately not here: any wait for the end of a child, and the name service after the fork.
 */
#include "loop/child.h"
#include "base/words.h"
#include "loop/slice.h"
#include <dirent.h>
#include <fcntl.h>
#include <grp.h>
#include <limits.h>
#include <linux/capability.h>
#include <linux/close_range.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/pidfd.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <systemd/sd-event.h>

#define N_OWN_CAPABILITIES 7
#define NSEC_PER_SEC       UINT64_C(1000000000)
#define STACK_SIZE         ((size_t)256 * 1024) /* of a child; what it does not use is not there */

/* The sanitizer's: what the child's functions noted of a stack that is left without returning from them. */
void __asan_unpoison_memory_region(const volatile void *address, size_t size) __attribute__((weak));

static rlim_t kept_soft_limit = RLIM_INFINITY; /* of descriptors; infinity: not kept */

/* As long as we live. */
static struct {
        int null_fd;
        int fds[3];
        int end; /* the number behind the highest that a child takes along */
        int *fault; /* of the child that starts: a negative errno; shared, also with one that has its own memory */
} passage = { .null_fd = -1 };

/* What a child has of us and is not to have: looked up once, for by the first start all of it is as it stays. */
static struct {
        bool is_known;
        uint64_t signals; /* bit SIGNAL - 1: handled or ignored */
        int n_capabilities;
        int capabilities[N_OWN_CAPABILITIES]; /* passed on by execve(2) */
} inheritance;

/* What a child needs to know, resolved before it exists. */
struct plan {
        const struct child_options *options;
        char *path;
        bool changes_user;
        bool sets_groups;
        gid_t *groups;
        int n_groups;
        pid_t parent;
        uint64_t begun; /* in clock ticks since the boot: no child of it started before */
};

/* ---- the passage ---- */

void child_keep_open(int fd)
{
        passage.end = MAX(passage.end, fd + 1);
}

static int passage_open(void)
{
        int fds[4];

        if (passage.null_fd >= 0)
                return 0;
        if (!passage.fault) {
                void *map =
                        mmap(NULL, sizeof(int), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

                if (map == MAP_FAILED)
                        return -errno;
                passage.fault = map;
        }
        for (size_t i = 0; i < ARRAY_SIZE(fds); i++) {
                fds[i] = i == 0 ? open("/dev/null", O_RDWR | O_CLOEXEC) : fcntl(fds[0], F_DUPFD_CLOEXEC, 3);
                if (fds[i] < 0) {
                        int error = errno;

                        while (i-- > 0)
                                (void)fd_close(fds[i]);
                        return -error;
                }
        }
        passage.null_fd = fds[0];
        memcpy(passage.fds, &fds[1], sizeof(passage.fds));
        child_keep_open(fds[3]); /* the highest, for each was the lowest that was free */
        return 0;
}

static int passage_fill(const struct child_options *options)
{
        const int fds[] = { options->stdin_fd, options->stdout_fd, options->stderr_fd };

        for (int i = 0; i < 3; i++)
                if (fds[i] >= 0 && dup3(fds[i], passage.fds[i], O_CLOEXEC) < 0)
                        return -errno;
        return 0;
}

/* What is not ours any more must not be given to a child, nor written over. */
static void passage_close(void)
{
        for (int i = 0; i < 3; i++)
                passage.fds[i] = fd_close(passage.fds[i]);
        passage.null_fd = fd_close(passage.null_fd);
}

/* Or we would hold on to what only the child is to have. */
static void passage_clear(const struct child_options *options)
{
        const int fds[] = { options->stdin_fd, options->stdout_fd, options->stderr_fd };
        bool is_ours = true;

        for (int i = 0; i < 3; i++) {
                int fd = passage.fds[i];

                if (fds[i] < 0 || dup3(passage.null_fd, fd, O_CLOEXEC) == fd)
                        continue;
                /* Closed, it is the lowest number that is free from there on. */
                (void)fd_close(fd);
                passage.fds[i] = fcntl(passage.null_fd, F_DUPFD_CLOEXEC, fd);
                is_ours = is_ours && passage.fds[i] == fd;
        }
        if (!is_ours)
                passage_close();
}

/* ---- who a process is ---- */

static char boot_id[37]; /* once it is known; the same as long as we live */

static int read_text(const char *path, char *buffer, size_t size)
{
        _cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC);
        ssize_t n = fd < 0 ? -1 : read(fd, buffer, size - 1);

        if (n < 0)
                return -errno;
        buffer[n] = '\0';
        return 0;
}

static int find_boot(void)
{
        return boot_id[0] ? 0 : read_text("/proc/sys/kernel/random/boot_id", boot_id, sizeof(boot_id));
}

/* What a process that started now would have in field 22 of /proc/PID/stat (proc(5)). */
static uint64_t clock_ticks(void)
{
        uint64_t ticks_per_sec = (uint64_t)sysconf(_SC_CLK_TCK);
        struct timespec ts;

        (void)clock_gettime(CLOCK_BOOTTIME, &ts);
        return (uint64_t)ts.tv_sec * ticks_per_sec + (uint64_t)ts.tv_nsec / (NSEC_PER_SEC / ticks_per_sec);
}

/* ---- what is not passed on ---- */

/*
 * The kernel's struct sigaction. Not sigaction(2) of the C library, which refuses its own two signals, although its
 * posix_spawn() passes them on ignored.
 */
struct kernel_sigaction {
        uint64_t handler, flags, restorer, mask;
};

/* Some cannot be changed, and need not. */
static int change_signal(int signal, const struct kernel_sigaction *action,
                         struct kernel_sigaction *ret_before)
{
        return (int)syscall(SYS_rt_sigaction, signal, action, ret_before, sizeof(uint64_t));
}

static uint64_t signal_bit(int signal)
{
        return UINT64_C(1) << (signal - 1);
}

/*
 * What drop-ins of our unit give to us is not for our commands: one that runs as its own user could become any
 * other with it. Every other capability that the unit has, an administrator gave it for them.
 */
static void find_inheritance(void)
{
        static const int own[N_OWN_CAPABILITIES] = {
                CAP_NET_BIND_SERVICE, CAP_SETUID,      CAP_SETGID, CAP_KILL, CAP_CHOWN,
                CAP_FOWNER,           CAP_DAC_OVERRIDE
        };
        struct kernel_sigaction action;

        if (inheritance.is_known)
                return;
        for (int signal = 1; signal < NSIG; signal++)
                if (change_signal(signal, NULL, &action) == 0 && action.handler != 0)
                        inheritance.signals |= signal_bit(signal);
        for (size_t i = 0; i < ARRAY_SIZE(own); i++)
                if (prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_IS_SET, own[i], 0, 0) != 0)
                        inheritance.capabilities[inheritance.n_capabilities++] = own[i];
        inheritance.is_known = true;
}

void child_keep_limits(void)
{
        struct rlimit limit;

        if (getrlimit(RLIMIT_NOFILE, &limit) == 0)
                kept_soft_limit = limit.rlim_cur;
        (void)passage_open(); /* where that fails, it is tried again when it is needed */
}

/* ---- in the child ---- */

/* Only then the descriptors are its own. What else it took along is closed when the program begins, or now. */
static int set_descriptors(const int fds[static 3], int close_flags)
{
        for (int i = 0; i < 3; i++)
                if (dup2(fds[i], i) < 0)
                        return -errno;
        return close_range(3, UINT_MAX, close_flags) < 0 ? -errno : 0;
}

static int restore_limit(void)
{
        struct rlimit limit;

        if (kept_soft_limit == RLIM_INFINITY)
                return 0;
        if (getrlimit(RLIMIT_NOFILE, &limit) < 0)
                return -errno;
        limit.rlim_cur = MIN(kept_soft_limit, limit.rlim_max);
        return setrlimit(RLIMIT_NOFILE, &limit) < 0 ? -errno : 0;
}

/* All signals are blocked until the last step, when no handler of ours is left that they could call. */
static void set_signals(void)
{
        for (int signal = 1; signal < NSIG; signal++)
                if (inheritance.signals & signal_bit(signal))
                        (void)change_signal(signal, &(struct kernel_sigaction){ 0 }, NULL);
}

static int become_user(const struct plan *plan)
{
        uid_t uid = plan->options->uid;
        gid_t gid = plan->options->gid;

        if (!plan->changes_user)
                return 0;
        if (plan->sets_groups && setgroups((size_t)plan->n_groups, plan->groups) < 0)
                return -errno;
        if (gid != (gid_t)-1 && setresgid(gid, gid, gid) < 0)
                return -errno;
        if (uid != (uid_t)-1 && setresuid(uid, uid, uid) < 0)
                return -errno;
        return 0;
}

static int keep_own_capabilities_back(void)
{
        for (int i = 0; i < inheritance.n_capabilities; i++)
                if (prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_LOWER, inheritance.capabilities[i], 0, 0) < 0)
                        return -errno;
        return 0;
}

static void unblock_signals(void)
{
        sigset_t none;

        (void)sigemptyset(&none);
        (void)sigprocmask(SIG_SETMASK, &none, NULL);
}

/* It started between two looks at the clock. /proc has to be asked only where a tick passed in between. */
static int identify_self(const struct plan *plan, struct process_identity *ret)
{
        if (boot_id[0] == '\0' || plan->begun != clock_ticks())
                return process_identify(getpid(), ret);
        ret->pid = getpid();
        ret->start = plan->begun;
        memcpy(ret->boot, boot_id, sizeof(ret->boot));
        return 0;
}

static int announce(const struct plan *plan)
{
        struct process_identity self;
        int r = identify_self(plan, &self);

        return plan->options->announce(r < 0 ? NULL : &self, plan->options->userdata);
}

static int run_program(void *userdata)
{
        const struct plan *plan = userdata;
        const struct child_options *options = plan->options;
        /* First of all, for as long as it shares them our locks are its own, and outlive us (fcntl(2)). */
        int r = close_range((unsigned)passage.end, UINT_MAX, CLOSE_RANGE_UNSHARE) < 0 ? -errno : 0;

        if (r == 0 && setpgid(0, 0) < 0)
                r = -errno;
        /* Before it has the limits of another, with the group that it will be ended with. */
        if (r == 0 && options->announce)
                r = announce(plan);
        set_signals();
        if (r == 0)
                r = set_descriptors(passage.fds, CLOSE_RANGE_CLOEXEC);
        if (r == 0)
                r = restore_limit();
        if (r == 0)
                r = become_user(plan);
        if (r == 0)
                r = keep_own_capabilities_back();
        if (r == 0 && chdir(options->working_directory) < 0)
                r = -errno;
        /* Not before it is who it will be, for that takes it back; and then we may be dead already. */
        if (r == 0 && options->dies_with_us && prctl(PR_SET_PDEATHSIG, SIGKILL) < 0)
                r = -errno;
        if (r == 0 && getppid() != plan->parent)
                r = -ECANCELED;
        if (r == 0) {
                slice_restore(); /* not before, for we wait for it */
                unblock_signals();
                (void)execve(plan->path, options->argv, options->environment);
                r = -errno;
        }
        *passage.fault = r;
        _exit(127);
}

/* ---- in the parent ---- */

static struct child *ending; /* whose `exited` runs, until it is forgotten, and maybe freed, in there */

static void child_ended(struct source *source)
{
        struct child *child = container_of(source, struct child, source);
        int pidfd = source->fd;
        siginfo_t info = { 0 };

        if (waitid(P_PIDFD, (id_t)pidfd, &info, WEXITED | WNOHANG | WNOWAIT) < 0) {
                /* Somebody else reaped it, as a plugin can. Its number may be another's by now. */
                info.si_code = CLD_KILLED;
                info.si_status = SIGKILL;
                child->pid = 0;
        } else if (info.si_pid == 0) {
                source_clear(source, EPOLLIN);
                return;
        }
        child->status_code = info.si_code;
        child->status = info.si_status;
        source_deinit(source, child->loop);
        ending = child;
        child->exited(child);
        if (ending)
                child_deinit(child);
        (void)waitid(P_PIDFD, (id_t)pidfd, &info, WEXITED | WNOHANG); /* only now its number is free */
        (void)fd_close(pidfd);
}

/* One that nobody asks for any more; sd-event reaps it after this. */
static int reap(struct sd_event_source *source, const siginfo_t *info _unused_, void *userdata _unused_)
{
        (void)sd_event_source_set_floating(source, false); /* drops the last reference */
        return 0;
}

static void reap_later(struct loop *loop, pid_t pid)
{
        if (sd_event_add_child(loop_event(loop), NULL, pid, WEXITED, reap, NULL) < 0)
                (void)waitpid(pid, NULL, 0); /* it was killed */
}

/* `pidfd`: used up. */
static int child_watch(struct child *child, struct loop *loop, pid_t pid, int pidfd, child_fn exited)
{
        *child = (struct child){ .pid = pid, .exited = exited, .loop = loop };
        if (pidfd >= 0 && source_init(&child->source, loop, pidfd, EPOLLIN, EPOLLIN, child_ended) == 0)
                return 0;
        *child = (struct child){ 0 };
        (void)kill(-pid, SIGKILL);
        (void)waitpid(pid, NULL, 0);
        (void)fd_close(pidfd);
        return CHILD_E_LOST;
}

static int resolve_groups(struct plan *plan)
{
        const struct child_options *options = plan->options;
        gid_t gid = options->gid == (gid_t)-1 ? getegid() : options->gid;

        plan->sets_groups = options->uid != (uid_t)-1;
        if (!plan->sets_groups || !options->user_name)
                return 0;
        for (int n = 0; getgrouplist(options->user_name, gid, plan->groups, &n) < 0;) {
                gid_t *groups =
                        n > plan->n_groups ? reallocarray(plan->groups, (size_t)n, sizeof(*groups)) : NULL;

                if (!groups)
                        return -ENOMEM;
                plan->groups = groups;
                plan->n_groups = n;
        }
        return 0;
}

static int plan_init(struct plan *plan, const struct child_options *options)
{
        *plan = (struct plan){
                .options = options,
                .parent = getpid(),
                .changes_user = (options->uid != (uid_t)-1 && options->uid != geteuid()) ||
                                (options->gid != (gid_t)-1 && options->gid != getegid()),
        };
        int r = passage_open();

        find_inheritance();
        (void)find_boot(); /* else each child asks */
        if (r == 0)
                r = program_find(options->argv[0], &plan->path);
        return r == 0 && plan->changes_user ? resolve_groups(plan) : r;
}

static void plan_deinit(struct plan *plan)
{
        free(plan->path);
        free(plan->groups);
}

static void block_signals(sigset_t *ret_mask)
{
        sigset_t all;

        (void)sigfillset(&all);
        (void)sigprocmask(SIG_SETMASK, &all, ret_mask);
}

/* Returns when the program runs, or when it never will. */
static int plan_clone(struct plan *plan, pid_t *ret_pid, int *ret_pidfd)
{
        const int shared = CLONE_FILES | (plan->changes_user ? 0 : CLONE_VM);
        _Alignas(16) char stack[STACK_SIZE]; /* which grows downward, below all that we use meanwhile */
        sigset_t mask;
        int pidfd = -1, r = 0;

        *passage.fault = 0;
        plan->begun = clock_ticks();
        block_signals(&mask);
        pid_t pid = clone(run_program, stack + sizeof(stack), CLONE_VFORK | CLONE_PIDFD | shared | SIGCHLD,
                          plan, &pidfd);
        if (pid < 0)
                r = -errno;
        (void)sigprocmask(SIG_SETMASK, &mask, NULL);
        if (__asan_unpoison_memory_region)
                __asan_unpoison_memory_region(stack, sizeof(stack));
        if (r < 0)
                return r;
        if (*passage.fault < 0) {
                (void)waitpid(pid, NULL, 0);
                (void)fd_close(pidfd);
                return *passage.fault;
        }
        *ret_pid = pid;
        *ret_pidfd = pidfd;
        return 0;
}

static int plan_run(struct plan *plan, pid_t *ret_pid, int *ret_pidfd)
{
        int r = passage_fill(plan->options);

        if (r == 0)
                r = plan_clone(plan, ret_pid, ret_pidfd);
        passage_clear(plan->options);
        return r;
}

int child_start(struct child *child, struct loop *loop, const struct child_options *options, child_fn exited)
{
        _cleanup_(plan_deinit) struct plan plan;
        pid_t pid = 0;
        int pidfd = -1, r;

        assert(!child->loop);
        r = plan_init(&plan, options);
        if (r == 0)
                r = plan_run(&plan, &pid, &pidfd);
        return r < 0 ? r : child_watch(child, loop, pid, pidfd, exited);
}

int child_fork(struct child *child, struct loop *loop, int (*work)(void *userdata), void *userdata,
               int stderr_fd, child_fn exited)
{
        sigset_t mask;
        int r = passage_open();

        assert(!child->loop);
        if (r < 0)
                return r;
        find_inheritance();
        block_signals(&mask);
        pid_t pid = fork();
        if (pid == 0) {
                const int fds[] = { passage.null_fd, passage.null_fd,
                                    stderr_fd >= 0 ? stderr_fd : passage.null_fd };

                slice_restore();
                set_signals();
                if (setpgid(0, 0) < 0 || set_descriptors(fds, 0) < 0 || restore_limit() < 0)
                        _exit(126);
                unblock_signals();
                _exit(work(userdata));
        }
        r = pid < 0 ? -errno : 0;
        (void)sigprocmask(SIG_SETMASK, &mask, NULL);
        if (r < 0)
                return r;
        (void)setpgid(pid, pid); /* the child does it, too: whoever is first */
        return child_watch(child, loop, pid, pidfd_open(pid, 0), exited);
}

/* The group that it leads, and where it has left that for another one, itself. */
static int signal_group(pid_t leader, int signal)
{
        if (kill(-leader, signal) == 0 || (errno == ESRCH && kill(leader, signal) == 0))
                return 0;
        return errno == ESRCH ? 0 : -errno;
}

int child_kill(struct child *child, int signal)
{
        return child->pid > 0 ? signal_group(child->pid, signal) : 0;
}

void child_deinit(struct child *child)
{
        struct loop *loop = child->loop;
        int pidfd = child->source.fd;

        if (!loop)
                return;
        if (ending == child) { /* child_ended() does the rest */
                ending = NULL;
        } else {
                (void)child_kill(child, SIGKILL);
                source_deinit(&child->source, loop);
                (void)fd_close(pidfd);
                reap_later(loop, child->pid);
        }
        child->loop = NULL;
        child->pid = 0;
}

/* ---- processes that are not our children ---- */

/* The fields of /proc/PID/stat from the third on: the second, a name in parentheses, may have anything in it. */
static int read_stat(pid_t pid, char buffer[static 1024], const char **ret_fields)
{
        char path[32], *end;
        int r;

        (void)snprintf(path, sizeof(path), "/proc/%d/stat", (int)pid);
        r = read_text(path, buffer, 1024);
        if (r < 0)
                return r;
        end = strrchr(buffer, ')');
        if (!end || end[1] != ' ')
                return -EINVAL;
        *ret_fields = end + 2;
        return 0;
}

int process_identify(pid_t pid, struct process_identity *ret)
{
        struct process_identity process = { .pid = pid };
        const char *p;
        char text[1024];
        int r = find_boot();

        if (r == 0)
                r = read_stat(pid, text, &p);
        if (r < 0)
                return r;
        for (int field = 3; p && field < 22; field++) {
                p = strchr(p, ' ');
                p = p ? p + 1 : NULL;
        }
        if (!p)
                return -EINVAL;
        process.start = strtoull(p, NULL, 10);
        memcpy(process.boot, boot_id, sizeof(boot_id));
        *ret = process;
        return 0;
}

static int wait_end(int pidfd, int wait_msec)
{
        struct pollfd pollfd = { .fd = pidfd, .events = POLLIN };
        int n = poll(&pollfd, 1, wait_msec);

        return n < 0 ? -errno : n == 0 ? -ETIMEDOUT : 0;
}

static bool has_mark(pid_t pid, const char *mark)
{
        _cleanup_free_ char *variable = NULL;
        bool is_found = false;
        size_t size = 0;
        char path[32];
        FILE *file;

        (void)snprintf(path, sizeof(path), "/proc/%d/environ", (int)pid);
        file = fopen(path, "re");
        while (file && !is_found && getdelim(&variable, &size, '\0', file) > 0)
                is_found = streq(variable, mark);
        if (file)
                (void)fclose(file);
        return is_found;
}

/* 1: it was of the group, and is ended. */
static int end_member(pid_t pid, pid_t group, const char *mark, int wait_msec)
{
        _cleanup_close_ int fd = pidfd_open(pid, 0); /* first: what is looked at is what is signalled */
        const char *fields;
        char text[1024];
        int own_group;

        /* State, parent, group: those that cannot be looked at are none of ours. */
        if (fd < 0 || read_stat(pid, text, &fields) < 0 || sscanf(fields, "%*c %*d %d", &own_group) != 1 ||
            own_group != group || !has_mark(pid, mark))
                return 0;
        if (pidfd_send_signal(fd, SIGKILL, NULL, 0) < 0)
                return errno == ESRCH ? 1 : -errno;
        int r = wait_end(fd, wait_msec);
        return r < 0 ? r : 1;
}

/* Looks again as long as it finds some: one may have had a child in between. */
static int end_members(pid_t group, const char *mark, int wait_msec)
{
        int r = 1;

        while (r == 1 && (kill(-group, 0) == 0 || errno != ESRCH)) {
                DIR *directory = opendir("/proc");

                if (!directory)
                        return -errno;
                r = 0;
                for (struct dirent *entry; r >= 0 && (entry = readdir(directory));) {
                        int pid = atoi(entry->d_name);
                        int n = pid > 0 ? end_member(pid, group, mark, wait_msec) : 0;

                        r = n != 0 ? n : r;
                }
                (void)closedir(directory);
        }
        return MIN(r, 0);
}

/* Nobody has the number, or it is that of a thread (EINVAL, of newer kernels ENOENT). */
static bool is_no_process(int error)
{
        return error == ESRCH || error == EINVAL || error == ENOENT;
}

int process_end(const struct process_identity *process, const char *mark, int wait_msec)
{
        struct process_identity now;
        int r;

        if (find_boot() < 0 || !streq(boot_id, process->boot))
                return 0;

        _cleanup_close_ int fd = pidfd_open(process->pid, 0);

        if (fd < 0 && !is_no_process(errno))
                return -errno;
        if (fd < 0) /* as long as there is a group of that number, no process gets it */
                return mark ? end_members(process->pid, mark, wait_msec) : 0;
        /* Opened first: what we look at now is what we wait for. */
        if (process_identify(process->pid, &now) < 0 || now.start != process->start)
                return 0;
        r = signal_group(process->pid, SIGKILL);
        return r < 0 ? r : wait_end(fd, wait_msec);
}
