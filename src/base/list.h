/*
 * list: an intrusive, circular, doubly linked list. A head and an unlinked node point to themselves, so
 * list_unlink() may be called twice and list_is_linked() needs no flag. Every operation is O(1) but
 * list_for_each. The list owns nothing.
 */
#pragma once

#include "base/util.h"

struct list {
        struct list *prev, *next;
};

#define LIST_INIT(l)                       \
        {                                  \
                .prev = &(l), .next = &(l) \
        }

static inline void list_init(struct list *l)
{
        l->prev = l->next = l;
}

static inline bool list_is_empty(const struct list *head)
{
        return head->next == head;
}

static inline bool list_is_linked(const struct list *node)
{
        return node->next != node;
}

/* Puts `node`, which must not be linked, at the tail (list_append) or head (list_prepend) of `head`. */
static inline void list_append(struct list *head, struct list *node)
{
        assert(!list_is_linked(node));
        node->prev = head->prev;
        node->next = head;
        head->prev->next = node;
        head->prev = node;
}

static inline void list_prepend(struct list *head, struct list *node)
{
        list_append(head->next, node);
}

static inline void list_unlink(struct list *node)
{
        node->prev->next = node->next;
        node->next->prev = node->prev;
        list_init(node);
}

/* Moves all of `from` to the tail of `to`; `from` is empty afterwards. */
static inline void list_splice(struct list *to, struct list *from)
{
        if (list_is_empty(from))
                return;
        from->next->prev = to->prev;
        to->prev->next = from->next;
        from->prev->next = to;
        to->prev = from->prev;
        list_init(from);
}

/* Unlinks and returns the first node, NULL if there is none. */
static inline struct list *list_take_first(struct list *head)
{
        struct list *node = head->next;

        if (node == head)
                return NULL;
        list_unlink(node);
        return node;
}

/* `node` may be unlinked inside the loop, its successor may not. */
#define list_for_each(node, head)                                                         \
        for (struct list *node = (head)->next, *node##_next = node->next; node != (head); \
             node = node##_next, node##_next = node->next)
