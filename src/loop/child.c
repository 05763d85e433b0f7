/*
 * Children. Relies on vfork(2), which costs the same however large we are: between vfork and execve the child
 * makes system calls only, on memory that is still ours, with all signals blocked. A child that changes its
 * user is made with fork(2) instead: as long as it shared our memory, the kernel would take us for a program
 * that changed its user, too, and forbid us core dumps (PR_SET_DUMPABLE(2const)).
 *
 * What goes wrong before the program runs comes back through a pipe that execve closes. Whoever dies between the
 * fork and the program: no program runs that was not announced, for a child whose parent is gone ends, too.
 * Deliberately not here: any wait for the end of a child, and the name service after the fork.
 */
#include "loop/child.h"
#include "base/words.h"
#include <dirent.h>
#include <fcntl.h>
#include <grp.h>
#include <limits.h>
#include <linux/capability.h>
#include <linux/close_range.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <sys/pidfd.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <systemd/sd-event.h>

static rlim_t kept_soft_limit = RLIM_INFINITY; /* of descriptors; infinity: not kept */

/* What a child needs to know, resolved before it exists. */
struct plan {
        const struct child_options *options;
        char *path;
        bool changes_user;
        bool sets_groups;
        gid_t *groups;
        int n_groups;
        int error_fd;
        pid_t parent;
};

void child_keep_limits(void)
{
        struct rlimit limit;

        if (getrlimit(RLIMIT_NOFILE, &limit) == 0)
                kept_soft_limit = limit.rlim_cur;
}

/* ---- in the child ---- */

static int set_descriptors(int stdin_fd, int stdout_fd, int stderr_fd)
{
        const int fds[] = { stdin_fd, stdout_fd, stderr_fd };
        int null_fd = open("/dev/null", O_RDWR | O_CLOEXEC);

        if (null_fd < 0)
                return -errno;
        for (int i = 0; i < 3; i++)
                if (dup2(fds[i] >= 0 ? fds[i] : null_fd, i) < 0)
                        return -errno;
        return 0;
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
static int set_up(int stdin_fd, int stdout_fd, int stderr_fd, int close_flags)
{
        /*
         * The kernel's struct sigaction, all SIG_DFL; some cannot be changed, and need not. Not sigaction(2) of the
         * C library, which refuses its own two signals, although its posix_spawn() passes them on ignored.
         */
        static const uint64_t by_default[4];
        int r;

        for (int signal = 1; signal < NSIG; signal++)
                (void)syscall(SYS_rt_sigaction, signal, by_default, NULL, sizeof(uint64_t));
        r = set_descriptors(stdin_fd, stdout_fd, stderr_fd);
        if (r < 0)
                return r;
        if (close_range(3, UINT_MAX, close_flags) < 0)
                return -errno;
        return restore_limit();
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

/*
 * What drop-ins of our unit give to us is not for our commands: one that runs as its own user could become any
 * other with it. Every other capability that the unit has, an administrator gave it for them.
 */
static int keep_own_capabilities_back(void)
{
        static const int own[] = { CAP_NET_BIND_SERVICE, CAP_SETUID,      CAP_SETGID, CAP_KILL, CAP_CHOWN,
                                   CAP_FOWNER,           CAP_DAC_OVERRIDE };

        for (size_t i = 0; i < ARRAY_SIZE(own); i++)
                if (prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_LOWER, own[i], 0, 0) < 0)
                        return -errno;
        return 0;
}

static void unblock_signals(void)
{
        sigset_t none;

        (void)sigemptyset(&none);
        (void)sigprocmask(SIG_SETMASK, &none, NULL);
}

_Noreturn static void run_program(const struct plan *plan)
{
        const struct child_options *options = plan->options;
        int r = setpgid(0, 0) < 0 ? -errno : 0;

        /* Before it has the limits of another, with the group that it will be ended with. */
        if (r == 0 && options->announce)
                r = options->announce(options->userdata);
        if (r == 0)
                r = set_up(options->stdin_fd, options->stdout_fd, options->stderr_fd, CLOSE_RANGE_CLOEXEC);
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
                unblock_signals();
                (void)execve(plan->path, options->argv, options->environment);
                r = -errno;
        }
        _exit(write(plan->error_fd, &r, sizeof(r)) == sizeof(r) ? 127 : 126);
}

/* ---- in the parent ---- */

static int child_ended(struct sd_event_source *source, const siginfo_t *info, void *userdata)
{
        struct child *child = userdata;

        /* In both cases sd-event reaps it when we return. */
        if (!child) {
                (void)sd_event_source_set_floating(source, false); /* drops the last reference */
                return 0;
        }
        child->status_code = info->si_code;
        child->status = info->si_status;
        child->exited(child);
        if (sd_event_source_get_userdata(source)) /* else it was forgotten, and maybe freed, in there */
                child_deinit(child);
        return 0;
}

static int child_watch(struct child *child, struct loop *loop, pid_t pid, child_fn exited)
{
        struct sd_event_source *source;
        int r = sd_event_add_child(loop_event(loop), &source, pid, WEXITED, child_ended, child);

        if (r < 0) {
                (void)kill(-pid, SIGKILL);
                (void)waitpid(pid, NULL, 0);
                return CHILD_E_LOST;
        }
        *child = (struct child){ .pid = pid, .exited = exited, .source = source };
        return 0;
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
        int r = program_find(options->argv[0], &plan->path);

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

static pid_t plan_fork(const struct plan *plan)
{
        pid_t pid = plan->changes_user ? fork() : vfork();

        if (pid == 0)
                run_program(plan);
        return pid;
}

static int plan_run(struct plan *plan, pid_t *ret_pid)
{
        int pipe_fds[2], error = 0;
        sigset_t mask;

        if (pipe2(pipe_fds, O_CLOEXEC) < 0)
                return -errno;
        plan->error_fd = pipe_fds[1];
        block_signals(&mask);
        pid_t pid = plan_fork(plan);
        if (pid < 0)
                error = -errno;
        (void)fd_close(pipe_fds[1]);
        if (pid > 0 && read(pipe_fds[0], &error, sizeof(error)) == sizeof(error))
                (void)waitpid(pid, NULL, 0);
        (void)sigprocmask(SIG_SETMASK, &mask, NULL);
        (void)fd_close(pipe_fds[0]);
        *ret_pid = pid;
        return error;
}

int child_start(struct child *child, struct loop *loop, const struct child_options *options, child_fn exited)
{
        _cleanup_(plan_deinit) struct plan plan;
        pid_t pid = 0;
        int r;

        assert(!child->source);
        r = plan_init(&plan, options);
        if (r == 0)
                r = plan_run(&plan, &pid);
        if (r < 0)
                return r;
        return child_watch(child, loop, pid, exited);
}

int child_fork(struct child *child, struct loop *loop, int (*work)(void *userdata), void *userdata,
               int stderr_fd, child_fn exited)
{
        sigset_t mask;

        assert(!child->source);
        block_signals(&mask);
        pid_t pid = fork();
        if (pid == 0) {
                if (setpgid(0, 0) < 0 || set_up(-1, -1, stderr_fd, 0) < 0)
                        _exit(126);
                unblock_signals();
                _exit(work(userdata));
        }
        int r = pid < 0 ? -errno : 0;
        (void)sigprocmask(SIG_SETMASK, &mask, NULL);
        if (r < 0)
                return r;
        (void)setpgid(pid, pid); /* the child does it, too: whoever is first */
        return child_watch(child, loop, pid, exited);
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
        if (!child->source)
                return;
        (void)sd_event_source_set_userdata(child->source, NULL);
        if (child->status_code == 0) {
                (void)child_kill(child, SIGKILL);
                (void)sd_event_source_set_floating(child->source, true); /* stays until it is reaped */
        }
        child->source = sd_event_source_unref(child->source);
        child->pid = 0;
}

/* ---- processes that are not our children ---- */

static int read_text(const char *path, char *buffer, size_t size)
{
        _cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC);
        ssize_t n = fd < 0 ? -1 : read(fd, buffer, size - 1);

        if (n < 0)
                return -errno;
        buffer[n] = '\0';
        return 0;
}

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
        static char boot[sizeof(ret->boot)]; /* the same as long as we live */
        struct process_identity process = { .pid = pid };
        const char *p;
        char text[1024];
        int r = boot[0] ? 0 : read_text("/proc/sys/kernel/random/boot_id", boot, sizeof(boot));

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
        memcpy(process.boot, boot, sizeof(boot));
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

int process_end(const struct process_identity *process, const char *mark, int wait_msec)
{
        struct process_identity now;
        _cleanup_close_ int fd = pidfd_open(process->pid, 0);
        int error = fd < 0 ? errno : 0, r;

        if (error && error != ESRCH)
                return -error;
        /* Whoever lives now, in which boot. */
        if (process_identify(error ? getpid() : process->pid, &now) < 0 || !streq(now.boot, process->boot))
                return 0;
        if (error) /* as long as there is a group of that number, no process gets it */
                return mark ? end_members(process->pid, mark, wait_msec) : 0;
        /* Opened first: what we look at now is what we wait for. */
        if (now.start != process->start)
                return 0;
        r = signal_group(process->pid, SIGKILL);
        return r < 0 ? r : wait_end(fd, wait_msec);
}
