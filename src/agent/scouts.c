/* SPDX-License-Identifier: MIT */
#include "agent/scouts.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

/* uthash must not end the process when memory is short, and its default is not clean. */
#define HASH_NONFATAL_OOM 1
#define HASH_FUNCTION(key, bytes, hash) HASH_FNV(key, bytes, hash)
#include <uthash.h>

#define MAX_THREADS 3 /* beside the walk's own */
/* To wake a thread costs as much as to list a small directory: it is done for several. */
#define WAITING_TO_WAKE 4
/* Of records that are read between looks at whether anybody wants them still. */
#define READ_BYTES ((size_t)1 << 20)
/* A directory is parted that has more than twice as many names. */
#define PIECE_NAMES 1024
/* Parted ones at a time: each has a descriptor, and its names. */
#define MAX_PARTED 16
#define KEY_MAX_BYTES ((size_t)2 << 20)

/* A directory that is listed in pieces. */
struct parted {
    struct listing *listing;
    size_t count;
    atomic_uint users;   /* its pieces' places */
    atomic_size_t bytes; /* of its records */
    size_t unlisted;     /* pieces but the first; by the lock */
};

/* A directory, or a piece of one. */
struct place {
    struct place *next;
    enum { WAITING, UNDER_WAY, READY } state;
    unsigned depth;
    unsigned piece;        /* its number, */
    struct parted *parted; /* of this; NULL: the whole directory, or not looked at yet */
    int result;            /* where it is READY, as the next two */
    struct buf records;
    struct scouts_told told;
    UT_hash_handle hh; /* where it is READY; by the key: */
    size_t key_bytes;
    char path[]; /* and behind it the number of the piece */
};

struct scouts {
    int root;
    unsigned flags;
    size_t max_bytes;
    pthread_mutex_t lock;  /* of what follows */
    pthread_cond_t work;   /* for the threads */
    pthread_cond_t listed; /* for the walk */
    struct place *first;   /* directories that are not READY, as the walk will come to them */
    struct place *pieces;  /* pieces that are not, but the first ones: they come before all else */
    struct place *ready;   /* what is, by its key */
    bool is_short;         /* of memory: something was lost */
    unsigned waiting;
    size_t ready_bytes;
    unsigned depth; /* of the directory that the walk is in */
    atomic_bool stopping;
    atomic_uint parted_count;
    atomic_uint thread_count;
    bool begun;     /* the walk's own, like the next two */
    struct buf key; /* of what is looked for */
    pthread_t threads[MAX_THREADS];
};

struct scouts *scouts_new(int root, unsigned flags, size_t max_bytes)
{
    struct scouts *scouts = calloc(1, sizeof(*scouts));
    if (!scouts)
        return NULL;
    scouts->root = root;
    scouts->flags = flags;
    scouts->max_bytes = max_bytes;
    buf_init(&scouts->key, KEY_MAX_BYTES);
    (void)pthread_mutex_init(&scouts->lock, NULL);
    (void)pthread_cond_init(&scouts->work, NULL);
    (void)pthread_cond_init(&scouts->listed, NULL);
    return scouts;
}

/* Gives up the piece. */
static void leave_parted(struct scouts *scouts, struct place *place)
{
    struct parted *parted = take(place->parted);
    if (!parted || atomic_fetch_sub(&parted->users, 1) > 1)
        return;
    listing_close(parted->listing);
    free(parted);
    atomic_fetch_sub(&scouts->parted_count, 1);
}

static void place_free(struct scouts *scouts, struct place *place)
{
    if (!place)
        return;
    leave_parted(scouts, place);
    buf_done(&place->records);
    free(place);
}

static void places_free(struct scouts *scouts, struct place *place)
{
    while (place) {
        struct place *next = place->next;
        place_free(scouts, place);
        place = next;
    }
}

void scouts_free(struct scouts *scouts)
{
    if (!scouts)
        return;
    (void)pthread_mutex_lock(&scouts->lock);
    atomic_store(&scouts->stopping, true);
    (void)pthread_cond_broadcast(&scouts->work);
    (void)pthread_mutex_unlock(&scouts->lock);
    for (unsigned i = 0; i < atomic_load(&scouts->thread_count); i++)
        (void)pthread_join(scouts->threads[i], NULL);
    places_free(scouts, scouts->first);
    places_free(scouts, scouts->pieces);
    struct place *place = scouts->ready;
    HASH_CLEAR(hh, scouts->ready);
    while (place) {
        struct place *next = place->hh.next;
        place_free(scouts, place);
        place = next;
    }
    buf_done(&scouts->key);
    (void)pthread_cond_destroy(&scouts->listed);
    (void)pthread_cond_destroy(&scouts->work);
    (void)pthread_mutex_destroy(&scouts->lock);
    free(scouts);
}

/* ---- places --------------------------------------------------------------------- */

/* name: within the directory; NULL: the directory itself, or a piece of it. */
static struct place *new_place(const struct scouts *scouts, const char *directory, const char *name,
                               unsigned depth, unsigned piece)
{
    size_t path_bytes = strlen(directory) + (name ? 1 + strlen(name) : 0) + 1;
    struct place *place = calloc(1, sizeof(*place) + path_bytes + sizeof(piece));
    if (!place)
        return NULL;
    place->depth = depth;
    place->piece = piece;
    int len = snprintf(place->path, path_bytes, "%s%s%s", directory,
                       name && directory[0] ? "/" : "", name ? name : "");
    memcpy(place->path + len + 1, &piece, sizeof(piece));
    place->key_bytes = (size_t)len + 1 + sizeof(piece);
    buf_init(&place->records, scouts->max_bytes);
    return place;
}

/* The next directories among the records, in order. */
static int make_places(const struct scouts *scouts, const char *path, unsigned depth,
                       const struct buf *records, struct scouts_told *told,
                       struct place **ret_first)
{
    struct file file;
    struct place **last = ret_first;
    int r = 1;
    while (r > 0 && told->position < records->len && told->count < SCOUTS_MAX_TOLD) {
        r = file_read(records->data, records->len, &told->position, &file);
        if (r <= 0 || !S_ISDIR(file.stat.mode))
            continue;
        told->count++;
        *last = new_place(scouts, path, file.name, depth, 0);
        if (*last)
            last = &(*last)->next;
    }
    return r < 0 ? r : 0;
}

/* The places of all pieces of the directory but the first; NULL: no memory. */
static struct place *make_pieces(struct scouts *scouts, const struct place *first, size_t count,
                                 struct parted *parted)
{
    struct place *pieces = NULL;
    struct place **last = &pieces;
    for (size_t i = 1; i < count; i++) {
        *last = new_place(scouts, first->path, NULL, first->depth, (unsigned)i);
        if (!*last) {
            places_free(scouts, pieces);
            return NULL;
        }
        last = &(*last)->next;
    }
    for (struct place *piece = pieces; piece; piece = piece->next)
        piece->parted = parted;
    return pieces;
}

/* Parts the directory, whose first piece this becomes; *ret_others: the others.  False: it is
 * not large, there is no room, or nobody to help. */
static bool part(struct scouts *scouts, struct place *place, struct listing **listing,
                 struct place **ret_others)
{
    size_t count = (listing_count(*listing) + PIECE_NAMES - 1) / PIECE_NAMES;
    if (count <= 2 || atomic_load(&scouts->thread_count) == 0)
        return false;
    cleanup_free struct parted *parted = malloc(sizeof(*parted));
    bool is_room = atomic_fetch_add(&scouts->parted_count, 1) < MAX_PARTED;
    if (is_room && parted)
        *ret_others = make_pieces(scouts, place, count, parted);
    if (!*ret_others) {
        atomic_fetch_sub(&scouts->parted_count, 1);
        return false;
    }
    *parted = (struct parted){
        .listing = take(*listing), .count = count, .users = (unsigned)count, .unlisted = count - 1};
    place->parted = take(parted);
    return true;
}

static int list_whole(const struct scouts *scouts, struct listing *listing, struct buf *records)
{
    int r;
    do
        r = atomic_load(&scouts->stopping)
                ? -EINTR
                : listing_next(listing, scouts->flags, READ_BYTES, records);
    while (r > 0);
    return r;
}

static int list_piece(const struct scouts *scouts, struct place *place)
{
    struct parted *parted = place->parted;
    if (atomic_load(&parted->bytes) > scouts->max_bytes)
        return -EMSGSIZE;
    int r = listing_piece(parted->listing, (size_t)place->piece * PIECE_NAMES, PIECE_NAMES,
                          scouts->flags, &place->records);
    atomic_fetch_add(&parted->bytes, place->records.len);
    return r;
}

static void start_threads(struct scouts *scouts);

/* Lists the directory, or its first piece, or the piece. */
static int list(struct scouts *scouts, struct place *place, bool by_walk, struct place **ret_others)
{
    struct listing *listing cleanup_listing = NULL;
    int r = place->parted ? 0 : listing_open(scouts->root, place->path, &listing);
    if (r < 0)
        return r;
    if (by_walk && listing && listing_count(listing) > PIECE_NAMES)
        start_threads(scouts);
    if (!place->parted && !part(scouts, place, &listing, ret_others))
        return list_whole(scouts, listing, &place->records);
    return list_piece(scouts, place);
}

/* ---- the lists, with the lock --------------------------------------------------------- */

static void insert_places(struct scouts *scouts, struct place **at, struct place *first)
{
    struct place *next = *at;
    for (*at = first; *at; at = &(*at)->next)
        scouts->waiting++;
    *at = next;
}

static void remove_place(struct scouts *scouts, struct place *place)
{
    struct place **at = place->piece > 0 ? &scouts->pieces : &scouts->first;
    while (*at != place)
        at = &(*at)->next;
    *at = place->next;
    place->next = NULL;
}

static size_t bytes_of(const struct place *place)
{
    return sizeof(*place) + place->key_bytes + place->records.len;
}

/* From now on it can be taken. */
static void add_ready(struct scouts *scouts, struct place *place)
{
    place->state = READY;
    HASH_ADD(hh, scouts->ready, path, place->key_bytes, place);
    if (place->hh.tbl) {
        scouts->ready_bytes += bytes_of(place);
        return;
    }
    scouts->is_short = true;
    place_free(scouts, place);
}

static void wake_if_worth_it(struct scouts *scouts)
{
    if (scouts->waiting >= WAITING_TO_WAKE && scouts->ready_bytes <= SCOUTS_MAX_READY_BYTES / 2)
        (void)pthread_cond_broadcast(&scouts->work);
}

static struct place *next_waiting(struct place *place)
{
    while (place && place->state != WAITING)
        place = place->next;
    return place;
}

/* What to list next; NULL: there is nothing to do now.  The first directory is left to the walk,
 * which would come and wait for it.  One that is not below that which the walk is in gets no
 * more than a quarter of the room. */
static struct place *find_work(const struct scouts *scouts)
{
    struct place *piece = next_waiting(scouts->pieces);
    struct place *first = next_waiting(scouts->first);
    struct place *place = first ? next_waiting(first->next) : NULL;
    if (piece || !place)
        return piece;
    bool is_near = place->depth > scouts->depth;
    return scouts->ready_bytes <= SCOUTS_MAX_READY_BYTES / (is_near ? 1 : 4) ? place : NULL;
}

/* Of a directory whose names were just read: they are to be looked at now. */
static void add_pieces(struct scouts *scouts, struct place *pieces)
{
    struct place **at = &scouts->pieces;
    if (!pieces)
        return;
    while (*at)
        at = &(*at)->next;
    insert_places(scouts, at, pieces);
    (void)pthread_cond_broadcast(&scouts->work);
}

/* Lists it, without the lock meanwhile.  The directories within come right behind it; those of
 * a parted one when the walk tells of them: there may be many. */
static void list_place(struct scouts *scouts, struct place *place)
{
    struct place *within = NULL;
    struct place *pieces = NULL;
    place->state = UNDER_WAY; /* nobody takes it out now */
    scouts->waiting--;
    (void)pthread_mutex_unlock(&scouts->lock);
    place->result = list(scouts, place, false, &pieces);
    if (place->result == 0 && !place->parted)
        place->result = make_places(scouts, place->path, place->depth + 1, &place->records,
                                    &place->told, &within);
    (void)pthread_mutex_lock(&scouts->lock);
    insert_places(scouts, &place->next, within);
    add_pieces(scouts, pieces);
    remove_place(scouts, place);
    if (place->parted && place->piece > 0)
        place->parted->unlisted--;
    add_ready(scouts, place);
    (void)pthread_cond_signal(&scouts->listed);
    wake_if_worth_it(scouts);
}

/* ---- the threads ---------------------------------------------------------------- */

static void *scout(void *data)
{
    struct scouts *scouts = data;
    (void)pthread_mutex_lock(&scouts->lock);
    while (!atomic_load(&scouts->stopping)) {
        struct place *place = find_work(scouts);
        if (place)
            list_place(scouts, place);
        else
            (void)pthread_cond_wait(&scouts->work, &scouts->lock);
    }
    (void)pthread_mutex_unlock(&scouts->lock);
    return NULL;
}

/* As many as there are processors that the walk leaves alone. */
static void start_threads(struct scouts *scouts)
{
    if (scouts->begun)
        return;
    scouts->begun = true;
    cpu_set_t set;
    CPU_ZERO(&set);
    int count = sched_getaffinity(0, sizeof(set), &set) == 0 ? CPU_COUNT(&set) - 1 : 0;
    for (int i = 0; i < count && i < MAX_THREADS; i++) {
        if (pthread_create(&scouts->threads[i], NULL, scout, scouts) != 0)
            break;
        atomic_fetch_add(&scouts->thread_count, 1);
    }
}

/* ---- the walk ------------------------------------------------------------------- */

/* Puts them behind all that are at least as deep. */
static void add_places(struct scouts *scouts, struct place *first, unsigned depth)
{
    if (!first)
        return;
    start_threads(scouts);
    (void)pthread_mutex_lock(&scouts->lock);
    struct place **at = &scouts->first;
    while (*at && (*at)->depth >= depth)
        at = &(*at)->next;
    insert_places(scouts, at, first);
    wake_if_worth_it(scouts);
    (void)pthread_mutex_unlock(&scouts->lock);
}

int scouts_tell(struct scouts *scouts, const char *path, unsigned depth, const struct buf *records,
                struct scouts_told *told)
{
    struct place *first = NULL;
    if (scouts->begun && atomic_load(&scouts->thread_count) == 0)
        return 0;
    int r = make_places(scouts, path, depth, records, told, &first);
    add_places(scouts, first, depth);
    return r;
}

static int make_key(struct scouts *scouts, const char *path, unsigned piece)
{
    buf_clear(&scouts->key);
    int r = buf_add(&scouts->key, path, strlen(path) + 1);
    return r < 0 ? r : buf_add(&scouts->key, &piece, sizeof(piece));
}

/* Takes it out if it is READY. */
static struct place *take_ready(struct scouts *scouts)
{
    struct place *place = NULL;
    HASH_FIND(hh, scouts->ready, scouts->key.data, scouts->key.len, place);
    if (!place)
        return NULL;
    HASH_DEL(scouts->ready, place);
    scouts->ready_bytes -= bytes_of(place);
    return place;
}

/* If it is not.  Pieces are not looked for here: finish_pieces has made them READY. */
static struct place *find_place(const struct scouts *scouts)
{
    struct place *place = scouts->first;
    while (place && (place->key_bytes != scouts->key.len ||
                     memcmp(place->path, scouts->key.data, scouts->key.len) != 0))
        place = place->next;
    return place;
}

/* Takes out what has the key, listed, or not yet begun; NULL: nobody told of it.  Instead of
 * waiting for one under way the walk does what the scouts would do next. */
static struct place *take_place(struct scouts *scouts)
{
    struct place *place;
    while (!(place = take_ready(scouts)) && (place = find_place(scouts)) &&
           place->state == UNDER_WAY) {
        struct place *next = find_work(scouts);
        if (next)
            list_place(scouts, next);
        else
            (void)pthread_cond_wait(&scouts->listed, &scouts->lock);
    }
    if (place && place->state == WAITING) {
        remove_place(scouts, place);
        scouts->waiting--;
    }
    wake_if_worth_it(scouts);
    return place;
}

static struct place *find_piece(const struct scouts *scouts, const struct parted *parted)
{
    struct place *place = next_waiting(scouts->pieces);
    while (place && place->parted != parted)
        place = next_waiting(place->next);
    return place;
}

/* Until all pieces are listed: what is renamed within a directory is missed if its new name
 * was not there when the names were read, and its old one is gone when it is looked at. */
static void finish_pieces(struct scouts *scouts, const struct parted *parted)
{
    scoped_lock(&scouts->lock);
    while (parted->unlisted > 0) {
        struct place *next = find_piece(scouts, parted);
        if (next)
            list_place(scouts, next);
        else
            (void)pthread_cond_wait(&scouts->listed, &scouts->lock);
    }
}

/* What no scout has listed, or failed to: that may be due to there being several, without
 * memory or descriptors. */
static int list_now(struct scouts *scouts, struct place *place)
{
    struct place *pieces = NULL;
    buf_clear(&place->records);
    place->told = (struct scouts_told){0};
    int r = list(scouts, place, true, &pieces);
    scoped_lock(&scouts->lock);
    add_pieces(scouts, pieces);
    return r;
}

/* NULL: no memory. */
static struct place *get_place(struct scouts *scouts, const char *path, unsigned depth,
                               unsigned piece)
{
    struct place *place;
    if (make_key(scouts, path, piece) < 0)
        return NULL;
    {
        scoped_lock(&scouts->lock);
        scouts->depth = depth;
        place = take_place(scouts);
        if (!place && (scouts->is_short || piece > 0))
            return NULL;
    }
    return place ? place : new_place(scouts, path, NULL, depth, 0);
}

int scouts_list(struct scouts *scouts, const char *path, unsigned depth, unsigned piece,
                struct buf *records, struct scouts_told *ret_told)
{
    struct place *place = get_place(scouts, path, depth, piece);
    if (!place)
        return -ENOMEM;
    int r = place->state == READY && place->result == 0 ? 0 : list_now(scouts, place);
    if (r == 0 && place->parted) {
        finish_pieces(scouts, place->parted);
        r = piece + 1 < place->parted->count;
    }
    if (r >= 0) {
        buf_done(records);
        *records = place->records;
        *ret_told = place->told;
        buf_init(&place->records, 0);
    }
    place_free(scouts, place);
    return r;
}
