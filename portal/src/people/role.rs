/// Which of the two doors a person uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Side {
    /// The developer portal, for consumers' people.
    Portal,
    /// The provider console, for members of the workspace.
    Console,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    /// Everything, and the only one who makes owners.
    Owner,
    /// Everything but owners.
    Admin,
    /// Money: invoices, closing, revenue.
    Finance,
    /// KPIs and consumers.
    Product,
    /// Looks at consumers, to help them.
    Support,
    /// A consumer's own administrator: plan, payment, keys.
    ConsumerAdmin,
    /// Looks at usage, keys and invoices, and makes keys.
    ConsumerMember,
}

impl Role {
    pub const ALL: [Self; 7] =
        [Self::Owner, Self::Admin, Self::Finance, Self::Product, Self::Support, Self::ConsumerAdmin, Self::ConsumerMember];

    pub fn side(self) -> Side {
        match self {
            Self::ConsumerAdmin | Self::ConsumerMember => Side::Portal,
            _ => Side::Console,
        }
    }

    /// As kept in the database, where the side is told by whether there is a consumer.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Owner => "owner",
            Self::Admin | Self::ConsumerAdmin => "admin",
            Self::Finance => "finance",
            Self::Product => "product",
            Self::Support => "support",
            Self::ConsumerMember => "member",
        }
    }

    pub fn parse(side: Side, text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|role| role.side() == side && role.as_str() == text)
    }

    pub fn label(self) -> &'static str {
        match self {
            Self::Owner => "Owner",
            Self::Admin => "Admin",
            Self::Finance => "Finance",
            Self::Product => "Product",
            Self::Support => "Support",
            Self::ConsumerAdmin => "Administrator",
            Self::ConsumerMember => "Member",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_role_reads_back_on_its_own_side_only() {
        for role in Role::ALL {
            assert_eq!(Role::parse(role.side(), role.as_str()), Some(role));
        }
        assert_eq!(Role::parse(Side::Portal, "owner"), None);
        assert_eq!(Role::parse(Side::Console, "member"), None);
    }
}
