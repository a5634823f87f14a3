/* SPDX-License-Identifier: MIT */
/*
 * What volumes there are, and who uses them, as the engine last said.
 *
 * A view is immutable; a new one takes its place whenever the engine reports a
 * change, and all of it is listed again after the stream of events was lost.
 * Readers take the current view and never wait for the engine: while it is hung
 * or gone they see what was known last.
 */
#ifndef DVOLFS_VOLUME_CATALOGUE_H
#define DVOLFS_VOLUME_CATALOGUE_H

#include "base/fail.h"
#include "base/log.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct engine;
struct catalogue;
struct view;

struct view_volume {
    const char *name;
    const char *json; /* the engine's own object */
    uint64_t id;      /* from 1; another one where a listing in between lacked it */
};

/* One container that refers to a volume, running or not. */
struct view_user {
    const char *id;
    const char *name;
    const char *state; /* as engine/containers.h */
    const char *destination;
    bool writable;
};

struct catalogue_conf {
    struct engine *engine;
    struct log *log;
    const char *ignore_label; /* containers that carry it are left out everywhere */
    /* Called in a thread of the catalogue's when the engine is back after it was
     * lost: it may be another one.  May block. */
    void (*back)(void *data);
    void *data;
};

/*
 * Lists everything once (blocking; its failure is the result), then follows the
 * engine in two threads of its own until catalogue_stop.  Copies *conf, what it
 * points to must outlive the catalogue.
 */
must_check int catalogue_start(const struct catalogue_conf *conf, struct catalogue **ret_catalogue,
                               struct fail *why);

/* Ends the threads and frees.  Views that are held stay valid.  NULL is allowed. */
void catalogue_stop(struct catalogue *catalogue);

/* Since when the engine is lost, seconds since 1970; 0: it is not. */
int64_t catalogue_lost_since(struct catalogue *catalogue);

/* The current view; give it back with view_unref.  Never blocks, never NULL. */
struct view *catalogue_view(struct catalogue *catalogue);
void view_unref(struct view *view);
DEFINE_CLEANUP(cleanup_view_impl, struct view, view_unref)
#define cleanup_view cleanup(cleanup_view_impl)

/* Volumes by index, in the order of their names, or by name (NULL: none).
 * Everything given out lives as long as the view. */
size_t view_count(const struct view *view);
const struct view_volume *view_at(const struct view *view, size_t index);
const struct view_volume *view_find(const struct view *view, const char *name);

/* Calls fn for each mount of the volume in a container, until it returns < 0,
 * which becomes the result; else 0. */
int view_users(const struct view *view, const char *volume,
               int (*fn)(void *data, const struct view_user *user), void *data);

#endif
