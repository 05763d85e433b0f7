/*
 * child: a program that we started: how it starts and how it ends. It returns errors and never logs. A child
 * has default signal dispositions, an empty signal mask, the soft descriptor limit and the time slice that the daemon
 * was started with, no descriptor but 0, 1 and 2, and a process group of its own, so that all of it can be signalled.
 * Its end is noticed by pidfd (pidfd_open(2)), and it is reaped after `exited` has returned: until then the pid, and
 * so the group, cannot be anybody else's.
 *
 * SIGCHLD must be blocked in the process (sd_event_add_child(3), for those that were forgotten) and not ignored
 * (waitid(2)), and 0, 1 and 2 must be open.
 */
#pragma once

#include "base/util.h"
#include "loop/loop.h"
#include <sys/types.h>

struct child;
/* May call child_deinit() or child_start(), and free what the child is part of. */
typedef void (*child_fn)(struct child *child);

/* How a process is told from a later one with its pid, also by a later run of the daemon. */
struct process_identity {
        pid_t pid;
        uint64_t start; /* in clock ticks since the boot: proc(5), field 22 of /proc/PID/stat */
        char boot[37];  /* /proc/sys/kernel/random/boot_id */
};

struct child_options {
        char *const *argv;        /* argv[0]: where the program is, as program_find() looks for it */
        char *const *environment; /* the whole of it */
        const char *working_directory;
        const char *
                user_name; /* for initgroups(3); NULL: the supplementary groups are dropped when uid is given */
        uid_t uid;         /* (uid_t)-1: stay who we are */
        gid_t gid;         /* (gid_t)-1: likewise */
        /*
         * Called in the child before it is anybody but us, to write down that it exists, with no descriptor of ours for
         * sure but those of child_keep_open(): 0, or a negative errno that child_start() returns. NULL: nothing.
         * `self`: who it is; NULL: that could not be found out. What it changes in memory may be lost (it may have
         * its own).
         */
        int (*announce)(const struct process_identity *self, void *userdata);
        void *userdata;
        /*
         * The kernel kills it when we die, however we do (PR_SET_PDEATHSIG(2const)): the program alone, not what it
         * starts, and not one whose file is set-user-ID or has capabilities.
         */
        bool dies_with_us;
        int stdin_fd; /* -1: /dev/null, for all three; never 0 to 2; borrowed */
        int stdout_fd;
        int stderr_fd;
};

/* fork(2), pipe(2), execve(2): the machine, or our share of it, is out of processes, memory or descriptors for now. */
static inline bool errno_is_starvation(int error)
{
        return error == EAGAIN || error == ENOMEM || error == EMFILE || error == ENFILE;
}

/* Zeroed: none. */
struct child {
        pid_t pid;       /* 0: none, or in `exited`: somebody else has reaped it, its status is made up */
        int status_code; /* in `exited`: CLD_EXITED, CLD_KILLED or CLD_DUMPED; 0: it runs */
        int status;      /* in `exited`: exit code, or signal number */
        child_fn exited;
        struct loop *loop;    /* NULL: none */
        struct source source; /* its pidfd */
};

/*
 * Keeps the soft RLIMIT_NOFILE for children, and four low descriptors to start them with; to be called once, before the
 * daemon raises its limit and opens many.
 */
void child_keep_limits(void);

/* `announce` needs this one; it is open as long as we live. Those that are opened first cost the least. */
void child_keep_open(int fd);

/* It ran, but its end could not be watched (no memory, watch or descriptor was left for that), so it was killed. */
enum { CHILD_E_LOST = 1 };

/*
 * Starts a program; returns when it runs, or with the negative errno of the step that failed (program, user,
 * directory, execve), or with CHILD_E_LOST. `exited` is called from the loop, never from inside child_start().
 */
int child_start(struct child *child, struct loop *loop, const struct child_options *options, child_fn exited);

/*
 * fork(2) without exec, for work on file systems that must not hold up the loop: `work` runs in the child
 * and its return value is the exit status. Returns as child_start(). It owns no descriptor of ours but 2 (stderr_fd as above).
 */
int child_fork(struct child *child, struct loop *loop, int (*work)(void *userdata), void *userdata,
               int stderr_fd, child_fn exited);

/* Signals the whole process group; 0, also when there is none, or a negative errno: nobody could be signalled. */
int child_kill(struct child *child, int signal);

/* Forgets the child; one that still runs is killed with SIGKILL, and the loop reaps it. Idempotent. */
void child_deinit(struct child *child);

int process_identify(pid_t pid, struct process_identity *ret); /* 0 or a negative errno */

/*
 * Sends SIGKILL to the process group of that very process, which is not our child, and waits until it has
 * ended, for at most `wait_msec`. Where it has ended before, those of its group that live on are killed, if they have
 * `mark`, "NAME=value", in the environment that they were started with: nothing else tells them from another group of
 * that number; NULL: nobody looks. Returns 0 when it does not run any more, -ETIMEDOUT, or another negative errno.
 */
int process_end(const struct process_identity *process, const char *mark, int wait_msec);
