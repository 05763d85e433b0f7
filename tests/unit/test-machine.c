/*
 * What connection/machine promises: every path from accept ends in closed, with exactly one way out: REJECT
 * where loading never began, RELEASE and then REPORT where it did, or LEAVE, where both are left to the next process.
 */
#include "aborts.h"
#include "unit.h"

#include "connection/machine.h"

#define DEPTH 9

struct walk {
        enum connection_state state;
        unsigned n_actions[ACTION_RESUME + 1];
        unsigned n_served_after_end;
        bool has_ended, has_left;
};

static unsigned long n_paths, n_closed;

static void check_walk(const struct walk *walk)
{
        const unsigned *n = walk->n_actions;
        bool is_releasing = walk->state == CONNECTION_RELEASING, is_closed = walk->state == CONNECTION_CLOSED;

        unsigned n_begun = n[ACTION_LOAD] + n[ACTION_RESUME]; /* here, or before it was taken up */

        ck_assert_uint_le(n[ACTION_GREET] + n[ACTION_RESUME], 1);
        ck_assert_uint_le(n[ACTION_LOAD], n[ACTION_GREET]);
        ck_assert_uint_le(n[ACTION_SERVE], n[ACTION_LOAD]);
        ck_assert_uint_le(n[ACTION_HOLD], n[ACTION_SERVE] + n[ACTION_RESUME]);
        ck_assert_uint_le(n[ACTION_RELEASE], n_begun); /* never released what was not begun */
        ck_assert_uint_le(n[ACTION_REPORT], n[ACTION_RELEASE]);
        ck_assert_uint_eq(n[ACTION_REJECT] + n[ACTION_RELEASE], walk->has_ended && !walk->has_left);
        ck_assert_uint_eq(n[ACTION_LEAVE], walk->has_left);
        ck_assert_uint_eq(is_releasing || is_closed, walk->has_ended || walk->has_left);
        ck_assert_uint_eq(walk->n_served_after_end, 0);
        if (is_closed) {
                /* One record, and one release for each load; where it left, the next process owes both. */
                ck_assert_uint_eq(n[ACTION_REJECT] + n[ACTION_REPORT] + n[ACTION_LEAVE], 1);
                ck_assert_uint_eq(n[ACTION_RELEASE] + n[ACTION_LEAVE], n_begun);
        }
}

static void walk_all(const struct walk *from, unsigned depth)
{
        check_walk(from);
        n_paths++;
        n_closed += from->state == CONNECTION_CLOSED;
        if (depth == 0)
                return;
        for (enum connection_event event = 0; event < N_CONNECTION_EVENTS; event++) {
                struct walk walk = *from;

                if (!machine_allows(from->state, event))
                        continue;

                struct connection_edge edge = machine_step(from->state, event);

                if (from->has_ended || from->has_left)
                        ck_assert(edge.next >= CONNECTION_RELEASING);
                walk.state = edge.next;
                walk.n_actions[edge.action]++;
                walk.has_ended = from->has_ended || event == EVENT_END;
                walk.has_left = from->has_left || event == EVENT_PASSED_ON;
                walk.n_served_after_end += (from->has_ended || from->has_left) &&
                                           edge.action != ACTION_NONE && edge.action != ACTION_REPORT;
                walk_all(&walk, depth - 1);
        }
}

START_TEST(test_machine_every_path)
{
        walk_all(&(struct walk){ .state = CONNECTION_ACCEPT }, DEPTH);
        ck_assert_uint_gt(n_paths, 50);
        ck_assert_uint_gt(n_closed, 10);
}
END_TEST

/* The whole table, written down a second time: a cell that changes has to be changed twice. */
START_TEST(test_machine_table)
{
        static const struct {
                enum connection_state state;
                enum connection_event event;
                enum connection_state next;
                enum connection_action action;
        } cells[] = {
                { CONNECTION_ACCEPT, EVENT_ADMITTED, CONNECTION_HANDSHAKE, ACTION_GREET },
                { CONNECTION_ACCEPT, EVENT_TAKEN_UP, CONNECTION_READY, ACTION_RESUME },
                { CONNECTION_ACCEPT, EVENT_END, CONNECTION_CLOSED, ACTION_REJECT },
                { CONNECTION_HANDSHAKE, EVENT_SHAKEN, CONNECTION_LOADING, ACTION_LOAD },
                { CONNECTION_HANDSHAKE, EVENT_END, CONNECTION_CLOSED, ACTION_REJECT },
                { CONNECTION_LOADING, EVENT_LOADED, CONNECTION_READY, ACTION_SERVE },
                { CONNECTION_LOADING, EVENT_END, CONNECTION_RELEASING, ACTION_RELEASE },
                { CONNECTION_READY, EVENT_FIN, CONNECTION_HALF_CLOSED, ACTION_HOLD },
                { CONNECTION_READY, EVENT_PASSED_ON, CONNECTION_CLOSED, ACTION_LEAVE },
                { CONNECTION_READY, EVENT_END, CONNECTION_RELEASING, ACTION_RELEASE },
                { CONNECTION_HALF_CLOSED, EVENT_PASSED_ON, CONNECTION_CLOSED, ACTION_LEAVE },
                { CONNECTION_HALF_CLOSED, EVENT_END, CONNECTION_RELEASING, ACTION_RELEASE },
                { CONNECTION_RELEASING, EVENT_END, CONNECTION_RELEASING, ACTION_NONE },
                { CONNECTION_RELEASING, EVENT_SETTLED, CONNECTION_CLOSED, ACTION_REPORT },
                { CONNECTION_CLOSED, EVENT_END, CONNECTION_CLOSED, ACTION_NONE },
        };
        size_t n_allowed = 0;

        for (size_t i = 0; i < ARRAY_SIZE(cells); i++) {
                ck_assert_msg(machine_allows(cells[i].state, cells[i].event), "cell %zu", i);

                struct connection_edge edge = machine_step(cells[i].state, cells[i].event);

                ck_assert_msg(edge.next == cells[i].next && edge.action == cells[i].action, "cell %zu", i);
        }
        for (enum connection_state state = 0; state < N_CONNECTION_STATES; state++)
                for (enum connection_event event = 0; event < N_CONNECTION_EVENTS; event++)
                        n_allowed += machine_allows(state, event);
        ck_assert_uint_eq(n_allowed, ARRAY_SIZE(cells));
}
END_TEST

static void step(const void *cell)
{
        const unsigned *numbers = cell;

        (void)machine_step(numbers[0], numbers[1]);
}

START_TEST(test_machine_other_cells_assert)
{
        for (unsigned state = 0; state < N_CONNECTION_STATES; state++)
                for (unsigned event = 0; event < N_CONNECTION_EVENTS; event++)
                        if (!machine_allows(state, event))
                                ck_assert_msg(aborts(step, (const unsigned[]){ state, event }), "%u x %u",
                                              state, event);
        ck_assert(aborts(step, (const unsigned[]){ N_CONNECTION_STATES, EVENT_END }));
        ck_assert(aborts(step, (const unsigned[]){ CONNECTION_ACCEPT, N_CONNECTION_EVENTS }));
}
END_TEST

START_TEST(test_machine_names)
{
        static const char *const names[N_CONNECTION_STATES] = {
                "accept", "handshake", "loading", "ready", "ready", "releasing", "closed",
        };

        for (enum connection_state state = 0; state < N_CONNECTION_STATES; state++)
                ck_assert_str_eq(connection_state_name(state), names[state]);
}
END_TEST

UNIT_MAIN("machine", test_machine_every_path, test_machine_table, test_machine_other_cells_assert,
          test_machine_names)
