/* SPDX-License-Identifier: MIT */
/*
 * What a client of the agent has open, by number (agent/protocol.h).
 *
 * A number is not given again soon, so that a client that uses one too long
 * learns of it.  A handle lives as long as somebody holds it: closing its number
 * while a request works on it is safe.  Any thread may call.
 */
#ifndef DVOLFS_AGENT_HANDLES_H
#define DVOLFS_AGENT_HANDLES_H

#include "agent/protocol.h"
#include "agent/walk.h"

/* A file, a listing or a walk, by which of them is set. */
struct handle {
    int fd; /* -1: none */
    struct listing *listing;
    struct walk *walk;
    unsigned flags; /* of the listing */

    /* Of the table. */
    uint32_t number; /* 0: closed */
    unsigned holders;
    bool is_claimed;
};

struct handles {
    pthread_mutex_t lock;
    struct handle *slots[AGENT_MAX_HANDLES];
    uint32_t serial;
};

void handles_init(struct handles *handles);
/* Nobody holds one any more; what is open is closed. */
void handles_done(struct handles *handles);

/* A handle with nothing in it, held by the caller; NULL: -ENOMEM. */
must_check struct handle *handle_new(void);

/* Gives it a number, which is above 0; it stays held.  -EMFILE. */
must_check int handles_add(struct handles *handles, struct handle *handle);

/* Whom the number belongs to, held; NULL: nobody. */
must_check struct handle *handles_hold(struct handles *handles, uint32_t number);

/* Claims one that is held, for its holder alone: -EBUSY, it is claimed already.
 * It is let go by handles_unclaim. */
must_check int handles_claim(struct handles *handles, struct handle *handle);
void handles_unclaim(struct handles *handles, struct handle *handle);

/* Takes the number away. */
void handles_close(struct handles *handles, struct handle *handle);

/* Lets go of it; the last one frees it, if it has no number.  NULL is allowed. */
void handles_drop(struct handles *handles, struct handle *handle);

#endif
