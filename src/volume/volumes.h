/* SPDX-License-Identifier: MIT */
/*
 * The volumes of one engine: what there is, and their contents by the best way
 * there is.  The floor above needs no other header of this one but
 * volume/catalogue.h for views.
 *
 * Any thread may call.  "Blocks" below means on the engine, with limits, and
 * ended by cancel.
 */
#ifndef DVOLFS_VOLUME_VOLUMES_H
#define DVOLFS_VOLUME_VOLUMES_H

#include "base/buf.h"
#include "base/cancel.h"
#include "base/fail.h"
#include "base/log.h"
#include "volume/catalogue.h"
#include "volume/contents.h"

#include <sys/types.h>

struct cJSON;
struct volumes;

enum volumes_access {
    VOLUMES_ACCESS_AUTO,         /* the first that works for a volume */
    VOLUMES_ACCESS_LOCAL,        /* the volumes' directories on this machine */
    VOLUMES_ACCESS_AGENT,        /* an agent in a helper container */
    VOLUMES_ACCESS_AGENT_STREAM, /* the same, always by the attach stream */
    VOLUMES_ACCESS_API,          /* archive calls on a helper container that is never started */
};

struct volumes_conf {
    const char *spec; /* what to reach: "docker", "default" or "unix:///path" */
    enum volumes_access access;
};

/*
 * The endpoint a SPEC stands for, malloc'ed: itself, or what the docker command
 * would use for "docker" and "default": DOCKER_HOST, else its default socket
 * (docker/cli, opts/hosts.go).  -EINVAL: neither.  -ENOMEM.
 */
must_check int volumes_endpoint(const char *spec, char **ret_endpoint, struct fail *why);

/*
 * Reaches the engine, removes what dead processes of ours left there, lists its
 * volumes and keeps the list up to date.  Blocks.  log must outlive it.
 */
must_check int volumes_open(const struct volumes_conf *conf, struct log *log,
                            struct volumes **ret_volumes, struct fail *why);

/* Leaves the engine; blocks for half a minute at most, where it does not answer.  No other call may
 * be under way.  NULL is allowed. */
void volumes_close(struct volumes *volumes);

/* The current view, to be given back with view_unref.  Never blocks. */
struct view *volumes_view(struct volumes *volumes);

/* Adds what status.json tells of the engine and the way to contents to a JSON
 * object.  Never blocks.  -ENOMEM. */
must_check int volumes_status(struct volumes *volumes, struct cJSON *object);

/*
 * Adds volume.json: what `docker volume inspect` prints for it, with its users
 * and how dvolfs reaches it.  Never blocks.  -ENOMEM, -EMSGSIZE, -EIO: the
 * engine's object was no JSON.
 */
must_check int volumes_describe(struct volumes *volumes, const struct view *view,
                                const struct view_volume *volume, struct buf *out);

/*
 * How the volume's contents are reached: LOCAL, where calls block on the disk
 * alone; AGENT; or API, where they are not to be had file by file, or there is no such
 * volume.  Never blocks.
 */
enum volumes_access volumes_way(struct volumes *volumes, const char *name);

/* Goes up when contents that were had before may be another engine's, or elsewhere.
 * Never blocks. */
unsigned volumes_generation(const struct volumes *volumes);

/*
 * The volume's contents, file by file; a new reference.  -ENOENT: no such
 * volume; -ENOTSUP: reached by archive calls alone; -errno with why.  Blocks.
 */
must_check int volumes_contents(struct volumes *volumes, const char *name, struct cancel *cancel,
                                struct contents **ret_contents, struct fail *why);

/* What an archive of a volume turned out to be. */
struct volumes_summary {
    uint64_t bytes;
    uint64_t members;
    int64_t newest_s; /* the newest change in the volume, seconds since 1970 */
    uint32_t newest_ns;
    bool may_be_cut; /* paths are so long that the engine may have left some out */
};

/*
 * Writes an archive of the volume into the empty file fd: a plain pax tar,
 * "./" first.  Complete on success.  Blocks.  -ENOENT no such volume, -EIO it
 * came incomplete, -ENOSPC fd's file system is full, -EINTR, errors of the engine.
 */
must_check int volumes_read(struct volumes *volumes, const char *name, int fd,
                            struct cancel *cancel, struct volumes_summary *ret_summary,
                            struct fail *why);

/* A file in a volume, for volumes_list: name as in tar/entry.h, the root is "". */
typedef int volumes_list_fn(void *data, const char *name, mode_t mode, struct fail *why);

/* Calls fn for each file in the volume; its negative result ends the listing.  Blocks. */
must_check int volumes_list(struct volumes *volumes, const char *name, volumes_list_fn *fn,
                            void *data, struct cancel *cancel, struct fail *why);

/*
 * Whether a running container (or a paused one) may write to the volume, as the
 * engine says now: 0, or -EBUSY with why naming it.  Blocks.
 */
must_check int volumes_check_unused(struct volumes *volumes, const char *name,
                                    struct cancel *cancel, struct fail *why);

/*
 * Free bytes and free inodes where the volume lies.  -ENOTSUP: the engine's disk
 * cannot be seen from here.  Blocks.
 */
must_check int volumes_room(struct volumes *volumes, const char *name, uint64_t *ret_bytes,
                            uint64_t *ret_inodes, struct cancel *cancel, struct fail *why);

/* Is told how many bytes more have been sent; may be NULL. */
typedef void volumes_sent_fn(void *data, size_t bytes);

/*
 * Unpacks the archive in fd, which job/restore has checked, over the volume.
 * *ret_begun: the volume may have been changed, even on failure.  Blocks; cancel
 * is heeded until the engine begins.
 */
must_check int volumes_write(struct volumes *volumes, const char *name, int fd,
                             volumes_sent_fn *sent, void *data, struct cancel *cancel,
                             bool *ret_begun, struct fail *why);

#endif
