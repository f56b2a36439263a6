//! The application's rooms, which outlive connections.

use super::room::Room;
use super::{Client, CommandError, Event, Link, Pending, RoomState, SubscribeOptions};
use crate::focus::Focus;
use crate::inbox::{Item, Placed};
use crate::position::Position;
use crate::v1;
use crate::v1::frame::Body;

impl Client {
    /// Subscribes to a room; one that is subscribed starts anew with these options.
    ///
    /// # Errors
    /// [`CommandError::Closed`].
    pub fn subscribe(&mut self, name: &str, options: SubscribeOptions) -> Result<(), CommandError> {
        if matches!(self.link, Link::Closed { .. }) {
            return Err(CommandError::Closed);
        }
        self.rooms.insert(name.to_owned(), Room::new(options));
        self.events.push_back(Event::Room(name.to_owned(), RoomState::Subscribing));
        self.ask(name);
        Ok(())
    }

    /// Asks for a room's signals from now on, or no more; its events go on where they are.
    pub fn set_signals(&mut self, name: &str, wanted: bool) {
        let Some(room) = self.rooms.get_mut(name) else { return };
        if room.options.signals == wanted {
            return;
        }
        room.options.signals = wanted;
        if room.wanted() {
            self.ask(name);
        }
    }

    /// Raises or lowers a room that is subscribed, for as long as it is, also over reconnects (LC-FLOW-020).
    pub fn focus(&mut self, name: &str, focus: Focus) {
        let Some(room) = self.rooms.get_mut(name) else { return };
        if room.focus != focus {
            room.focus = focus;
            // What was asked for is answered first, and then told.
            let stands = room.wanted() && room.asked.is_none();
            if stands {
                self.tell_focus(name);
            }
        }
    }

    /// Ends a subscription and forgets the room.
    pub fn unsubscribe(&mut self, name: &str) {
        let Some(room) = self.rooms.remove(name) else { return };
        if room.wanted() {
            self.leave(name);
        }
        self.events.push_back(Event::Room(name.to_owned(), RoomState::Ended { code: None }));
    }

    /// The next items of a room, at most `max`. Asking says that the batch before was handled.
    pub fn next_batch(&mut self, name: &str, max: usize) -> Vec<Item> {
        self.next_placed(name, max).into_iter().map(|placed| placed.item).collect()
    }

    /// As [`Self::next_batch`], each item with the position after it.
    pub fn next_placed(&mut self, name: &str, max: usize) -> Vec<Placed> {
        let Some(room) = self.rooms.get_mut(name) else { return Vec::new() };
        let batch = room.inbox.next_placed(max);
        if room.paused && room.has_drained() {
            room.paused = false;
            self.ask(name);
        }
        batch
    }

    /// Says that the batch handed out last was handled, without asking for another.
    pub fn take(&mut self, name: &str) {
        if let Some(room) = self.rooms.get_mut(name) {
            room.inbox.take();
        }
    }

    /// How a room stands.
    pub fn room_state(&self, name: &str) -> Option<&RoomState> {
        self.rooms.get(name).map(|room| &room.state)
    }

    /// The position of a room: what the application has taken. Store it to go on there after a restart.
    pub fn position(&self, name: &str) -> Option<Position> {
        self.rooms.get(name).and_then(|room| room.inbox.position())
    }

    pub(super) fn limit_rooms(&mut self, rooms: u32) {
        self.rooms_max = if rooms == 0 { usize::MAX } else { rooms as usize };
    }

    /// Sends a Subscribe for a room, if there is a connection; else Hello will carry it.
    pub(super) fn ask(&mut self, name: &str) {
        let Some(room) = self.rooms.get_mut(name) else { return };
        room.again_at_ms = None;
        let frame = room.subscribe(name);
        if let Ok(id) = self.request(Body::Subscribe(frame), Pending::Subscribe(name.to_owned()))
            && let Some(room) = self.rooms.get_mut(name)
        {
            room.asked = Some(id);
        }
    }

    /// Tells the node how much a room matters. One that does not serve it serves all rooms alike.
    pub(super) fn tell_focus(&mut self, name: &str) {
        let (Some(room), Link::Open(open)) = (self.rooms.get(name), &self.link) else { return };
        if open.focuses {
            let focus = v1::Focus { room: name.to_owned(), level: room.focus.to_wire().into() };
            // Without a connection the next one is told.
            let _ = self.request(Body::Focus(focus), Pending::Ignored);
        }
    }

    pub(super) fn leave(&mut self, name: &str) {
        let unsubscribe = v1::Unsubscribe { room: name.to_owned() };
        // Without a connection there is nothing to leave.
        let _ = self.request(Body::Unsubscribe(unsubscribe), Pending::Ignored);
    }
}
