/* A turn may end before queue_run() returns: that one goes on with the next, and not the stack. */
#include "resource/queue.h"

static void queue_retry(struct timer *timer)
{
        struct queue *queue = container_of(timer, struct queue, retry);

        queue->is_starved = false;
        starvation_leave(queue->starvation);
        queue_run(queue);
}

void queue_init(struct queue *queue, unsigned n_max, struct loop *loop, struct starvation *starvation,
                void (*load)(struct place *place), void (*release)(struct place *place))
{
        *queue = (struct queue){
                .n_max = n_max, .loop = loop, .starvation = starvation, .load = load, .release = release
        };
        list_init(&queue->link);
        list_init(&queue->releases);
        list_init(&queue->loads);
        list_init(&queue->under_way);
        timer_init(&queue->retry, queue_retry);
}

void queue_deinit(struct queue *queue)
{
        assert(list_is_empty(&queue->releases) && list_is_empty(&queue->loads) &&
               list_is_empty(&queue->under_way));
        if (queue->is_starved)
                starvation_leave(queue->starvation);
        timer_disarm(&queue->retry);
        list_unlink(&queue->link);
        free(queue->name);
}

static bool has_free_place(const struct queue *queue)
{
        return !queue->is_starved && queue->n_under_way < queue->n_max;
}

void queue_run(struct queue *queue)
{
        struct list *link;

        if (queue->is_running)
                return;
        queue->is_running = true;
        while (has_free_place(queue))
                if ((link = list_take_first(&queue->releases)))
                        queue->release(container_of(link, struct place, link));
                else if ((link = list_take_first(&queue->loads)))
                        queue->load(container_of(link, struct place, link));
                else
                        break;
        queue->is_running = false;
}

void queue_enter(struct queue *queue, struct place *place)
{
        queue->n_under_way++;
        list_append(&queue->under_way, &place->link);
}

void queue_take_back(struct queue *queue, struct place *place)
{
        assert(queue->n_under_way > 0 && list_is_linked(&place->link));
        queue->n_under_way--;
        list_unlink(&place->link);
}

void queue_leave(struct queue *queue, struct place *place)
{
        queue_take_back(queue, place);
        queue_run(queue);
}

void queue_starve(struct queue *queue, int error)
{
        if (queue->is_starved) /* one that had its turn before waited for the disk until now */
                return;
        queue->is_starved = true;
        starvation_join(queue->starvation, error);
        timer_arm(loop_wheel(queue->loop), &queue->retry,
                  deadline_after(loop_now(queue->loop), STARVE_RETRY_USEC));
}

bool queue_is_stuck(const struct queue *queue)
{
        return has_free_place(queue) && !(list_is_empty(&queue->releases) && list_is_empty(&queue->loads));
}
