/* SPDX-License-Identifier: MIT */
/*
 * Work of which only one may run at a time, and which takes long: like a mutex,
 * but who waits for it can give up.  Any thread may take, and another may give
 * back.
 */
#ifndef DVOLFS_BASE_TURN_H
#define DVOLFS_BASE_TURN_H

#include "base/cancel.h"

struct turn {
    pthread_mutex_t lock;
    pthread_cond_t free;
    bool taken;
};

void turn_init(struct turn *turn);
void turn_done(struct turn *turn);

/* Waits until nobody has the turn and takes it; -EINTR where cancel was raised first. */
must_check int turn_take(struct turn *turn, struct cancel *cancel);
void turn_give_back(struct turn *turn);

#endif
