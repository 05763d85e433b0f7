/*
 * aborts: whether a call ends in a failed assertion, tried in a process of its own (also with CK_FORK=no).
 */
#pragma once

#include <fcntl.h>
#include <signal.h>
#include <stdbool.h>
#include <sys/wait.h>
#include <unistd.h>

static inline bool aborts(void (*call)(const void *argument), const void *argument)
{
        pid_t pid = fork();
        int status = 0;

        if (pid == 0) {
                int null_fd = open("/dev/null", O_WRONLY | O_CLOEXEC);

                (void)dup2(null_fd, STDERR_FILENO); /* the assertion's line is expected */
                call(argument);
                _exit(0);
        }
        while (waitpid(pid, &status, 0) < 0)
                ;
        return WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT;
}
