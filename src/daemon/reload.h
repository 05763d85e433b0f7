/*
 * reload: from the running configuration to the wanted one, applied whole or refused whole. The start is a
 * reload from nothing.
 */
#pragma once

#include "connection/listener.h"

/*
 * Makes a plan for every enabled listener of `config`, with its sockets open. Returns 0 with an array that
 * goes to listeners_commit() or reload_cancel(), or a negative errno with *ret_fault.
 */
int reload_prepare(struct listeners *listeners, struct config *config, struct listener_plan ***ret_plans,
                   size_t *ret_n_plans, char **ret_fault);
void reload_cancel(struct listener_plan **plans, size_t n_plans);
