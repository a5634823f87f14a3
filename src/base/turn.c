/* SPDX-License-Identifier: MIT */
#include "base/turn.h"

#include <errno.h>

void turn_init(struct turn *turn)
{
    (void)pthread_mutex_init(&turn->lock, NULL);
    (void)pthread_cond_init(&turn->free, NULL);
    turn->taken = false;
}

void turn_done(struct turn *turn)
{
    (void)pthread_cond_destroy(&turn->free);
    (void)pthread_mutex_destroy(&turn->lock);
}

static void wake(void *data)
{
    struct turn *turn = data;
    scoped_lock(&turn->lock);
    (void)pthread_cond_broadcast(&turn->free);
}

int turn_take(struct turn *turn, struct cancel *cancel)
{
    struct cancel_hook hook = {.run = wake, .data = turn};
    cancel_hook_add(cancel, &hook);
    bool taken;
    {
        scoped_lock(&turn->lock);
        while (turn->taken && !cancel_is_raised(cancel))
            (void)pthread_cond_wait(&turn->free, &turn->lock);
        taken = !turn->taken && !cancel_is_raised(cancel);
        turn->taken = turn->taken || taken;
    }
    cancel_hook_remove(cancel, &hook);
    return taken ? 0 : -EINTR;
}

void turn_give_back(struct turn *turn)
{
    scoped_lock(&turn->lock);
    turn->taken = false;
    (void)pthread_cond_broadcast(&turn->free);
}
