/* Relied on: SIGUSR1 is rare, so that lists are walked to be counted. */
#include "daemon/summary.h"
#include <inttypes.h>

void summary_write(const struct daemon *daemon)
{
        const struct connections *connections = &daemon->connections;
        const size_t *n_in = connections->n_in_state;
        struct journal *journal = daemon->journal;

        log_message(journal, LOG_NOTICE,
                    "summary: %zu of at most %" PRIu64
                    " connections (%zu in handshake, %zu loading, %zu ready, "
                    "%zu half closed, %zu releasing), %" PRIu64 " since the start",
                    connections->n_connections, connections->n_max, n_in[CONNECTION_HANDSHAKE],
                    n_in[CONNECTION_LOADING], n_in[CONNECTION_READY], n_in[CONNECTION_HALF_CLOSED],
                    n_in[CONNECTION_RELEASING], connections->n_accepted);
        list_for_each (node, &daemon->listeners.all) {
                const struct listener *listener = container_of(node, struct listener, link);

                log_message(journal, LOG_NOTICE,
                            "summary: listener %s: %zu connections, %" PRIu64 " since the start%s",
                            listener->config->name, listener->n_connections, listener->n_accepted,
                            listener->is_gone     ? ", removed"
                            : listener->is_paused ? ", accepting is paused"
                                                  : "");
        }
        list_for_each (node, &daemon->leases.queues) {
                const struct queue *queue = container_of(node, struct queue, link);
                size_t n_releases = 0, n_loads = 0;

                list_for_each (claim, &queue->releases)
                        n_releases++;
                list_for_each (claim, &queue->loads)
                        n_loads++;
                log_message(journal, LOG_NOTICE,
                            "summary: resource %s: %u of at most %u commands under way, %zu releases and %zu "
                            "loads wait",
                            queue->name, queue->n_under_way, queue->n_max, n_releases, n_loads);
        }
        leases_summarize(&daemon->leases);
        log_message(journal, LOG_NOTICE,
                    "summary: %zu leases, %zu resources quarantined; journal: %zu records wait, %" PRIu64
                    " dropped",
                    daemon->leases.n_leases, daemon->leases.n_quarantined, journal_n_staged(journal),
                    journal_n_dropped(journal));
}
