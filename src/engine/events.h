/* SPDX-License-Identifier: MIT */
/* What happens in the engine, as it happens: /events.  Errors as engine/engine.h says. */
#ifndef DVOLFS_ENGINE_EVENTS_H
#define DVOLFS_ENGINE_EVENTS_H

#include "engine/engine.h"

struct engine_event {
    const char *type;   /* "volume" or "container" */
    const char *action; /* "create", "destroy", "start", "die", ... */
    const char *id;     /* a volume's name, a container's id */
};

struct engine_events_listener {
    /* The engine has taken the subscription.  Something that happened just
     * before may still be missed, so list what there is after this. */
    void (*connected)(void *data);
    /* Strings are valid during the call, which must be short: an engine drops
     * events of a slow listener (moby daemon/events/events.go). */
    void (*event)(void *data, const struct engine_event *event);
    void *data;
    const char *ignore_label; /* containers that carry it are not reported */
};

/*
 * Reports creation, removal and change of state of volumes and containers.
 * Blocks until the stream ends: -EINTR cancelled, else the reason it was lost;
 * never 0.
 */
must_check int engine_events_follow(struct engine *engine,
                                    const struct engine_events_listener *listener,
                                    struct cancel *cancel, struct fail *why);

#endif
