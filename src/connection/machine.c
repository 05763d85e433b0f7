/*
 * The table. A cell that is not written cannot happen and asserts. There are exactly two ways out of a life:
 * REJECT where loading never began, RELEASE and then REPORT where it did; so there is one release for each
 * load, and one record for each life. LEAVE is no end: the life goes on with RESUME, in another process.
 */
#include "connection/machine.h"

#define TO(state, act)                                                                 \
        {                                                                              \
                .next = CONNECTION_##state, .action = ACTION_##act, .is_allowed = true \
        }

static const struct {
        enum connection_state next;
        enum connection_action action;
        bool is_allowed;
} edges[N_CONNECTION_STATES][N_CONNECTION_EVENTS] = {
        /* clang-format off */
        [CONNECTION_ACCEPT] = {
                [EVENT_ADMITTED]  = TO(HANDSHAKE, GREET),
                [EVENT_TAKEN_UP]  = TO(READY, RESUME),
                [EVENT_END]       = TO(CLOSED, REJECT),
        },
        [CONNECTION_HANDSHAKE] = {
                [EVENT_SHAKEN]    = TO(LOADING, LOAD),
                [EVENT_END]       = TO(CLOSED, REJECT),
        },
        [CONNECTION_LOADING] = {
                [EVENT_LOADED]    = TO(READY, SERVE),
                [EVENT_END]       = TO(RELEASING, RELEASE),
        },
        [CONNECTION_READY] = {
                [EVENT_FIN]       = TO(HALF_CLOSED, HOLD),
                [EVENT_PASSED_ON] = TO(CLOSED, LEAVE),
                [EVENT_END]       = TO(RELEASING, RELEASE),
        },
        [CONNECTION_HALF_CLOSED] = {
                [EVENT_PASSED_ON] = TO(CLOSED, LEAVE),
                [EVENT_END]       = TO(RELEASING, RELEASE),
        },
        [CONNECTION_RELEASING] = {
                [EVENT_END]       = TO(RELEASING, NONE), /* the first cause wins */
                [EVENT_SETTLED]   = TO(CLOSED, REPORT),
        },
        [CONNECTION_CLOSED] = {
                [EVENT_END]       = TO(CLOSED, NONE),
        },
        /* clang-format on */
};

struct connection_edge machine_step(enum connection_state state, enum connection_event event)
{
        assert(machine_allows(state, event));
        return (struct connection_edge){ .next = edges[state][event].next,
                                         .action = edges[state][event].action };
}

bool machine_allows(enum connection_state state, enum connection_event event)
{
        assert(state < N_CONNECTION_STATES && event < N_CONNECTION_EVENTS);
        return edges[state][event].is_allowed;
}

const char *connection_state_name(enum connection_state state)
{
        static const char *const names[N_CONNECTION_STATES] = {
                [CONNECTION_ACCEPT] = "accept",     [CONNECTION_HANDSHAKE] = "handshake",
                [CONNECTION_LOADING] = "loading",   [CONNECTION_READY] = "ready",
                [CONNECTION_HALF_CLOSED] = "ready", [CONNECTION_RELEASING] = "releasing",
                [CONNECTION_CLOSED] = "closed",
        };

        return names[state];
}
