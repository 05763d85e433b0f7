/*
 * saved: what several types keep in a ledger record: the words of a command, and which process it was.
 */
#pragma once

#include "loop/child.h"

/* Appends "name=word" for each. 0 or -ENOMEM. */
int saved_words(char ***fields, const char *name, char *const *words);
/* The words again, in their order, added to *ret_words. 0 or -ENOMEM. */
int saved_words_read(char *const *fields, const char *name, char ***ret_words);

/* Appends pid, start and boot; nothing where there is no process (pid 0). 0 or -ENOMEM. */
int saved_process(char ***fields, const struct process_identity *process);
/* 0, also where there is none; or -EINVAL. */
int saved_process_read(char *const *fields, struct process_identity *ret);
