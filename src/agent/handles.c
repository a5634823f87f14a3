/* SPDX-License-Identifier: MIT */
#include "agent/handles.h"

/* A number is a slot and, above it, a serial number, within an int32_t. */
#define SERIALS ((uint32_t)(INT32_MAX / AGENT_MAX_HANDLES))

static void handle_free(struct handle *handle)
{
    cleanup_close_impl(&handle->fd);
    listing_close(handle->listing);
    walk_free(handle->walk);
    free(handle);
}

void handles_init(struct handles *handles)
{
    *handles = (struct handles){.serial = 0};
    (void)pthread_mutex_init(&handles->lock, NULL);
}

void handles_done(struct handles *handles)
{
    for (size_t i = 0; i < AGENT_MAX_HANDLES; i++)
        if (handles->slots[i])
            handle_free(handles->slots[i]);
    (void)pthread_mutex_destroy(&handles->lock);
}

struct handle *handle_new(void)
{
    struct handle *handle = calloc(1, sizeof(*handle));
    if (!handle)
        return NULL;
    handle->fd = -1;
    handle->holders = 1;
    return handle;
}

int handles_add(struct handles *handles, struct handle *handle)
{
    scoped_lock(&handles->lock);
    uint32_t slot = 0;
    while (slot < AGENT_MAX_HANDLES && handles->slots[slot])
        slot++;
    if (slot == AGENT_MAX_HANDLES)
        return -EMFILE;
    handles->serial = handles->serial % (SERIALS - 1) + 1;
    handles->slots[slot] = handle;
    handle->number = handles->serial * AGENT_MAX_HANDLES + slot;
    return (int)handle->number;
}

struct handle *handles_hold(struct handles *handles, uint32_t number)
{
    scoped_lock(&handles->lock);
    struct handle *handle = handles->slots[number % AGENT_MAX_HANDLES];
    if (!handle || handle->number != number)
        return NULL;
    handle->holders++;
    return handle;
}

int handles_claim(struct handles *handles, struct handle *handle)
{
    scoped_lock(&handles->lock);
    if (handle->is_claimed)
        return -EBUSY;
    handle->is_claimed = true;
    return 0;
}

void handles_unclaim(struct handles *handles, struct handle *handle)
{
    scoped_lock(&handles->lock);
    handle->is_claimed = false;
}

void handles_close(struct handles *handles, struct handle *handle)
{
    scoped_lock(&handles->lock);
    if (!handle->number)
        return;
    handles->slots[handle->number % AGENT_MAX_HANDLES] = NULL;
    handle->number = 0;
}

void handles_drop(struct handles *handles, struct handle *handle)
{
    if (!handle)
        return;
    bool is_last;
    {
        scoped_lock(&handles->lock);
        is_last = --handle->holders == 0 && !handle->number;
    }
    if (is_last) /* outside of the lock: close(2) may wait */
        handle_free(handle);
}
